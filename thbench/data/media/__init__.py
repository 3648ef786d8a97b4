"""Reading and writing of video, audio and images."""
