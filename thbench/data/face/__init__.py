"""Faces in images: tracking, landmarks, pose, crops, and a morphable model."""
