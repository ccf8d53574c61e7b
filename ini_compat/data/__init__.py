"""Data set, environment and transformations."""
