"""Synthetic talking heads whose every motion is known: the data set that needs no download."""
