"""What every other package rests on: data types, errors, registries, seeds, files."""
