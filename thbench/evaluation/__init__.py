"""Scoring of videos by a protocol, and the results."""
