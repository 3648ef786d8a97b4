"""Prepared data sets: how they are made, stored, and read in batches."""
