"""MediaPipe's face detectors and attention mesh, run without MediaPipe.

``models/`` holds its three networks as published, with their licence and origin.
"""
