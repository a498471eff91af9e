"""Environment variables that people may set."""

AUTHOR = "SAE_ENSEMBLE_AUTHOR"
"""Who writes labels."""
LABELS = "SAE_ENSEMBLE_LABELS"
"""A database for the labels of all runs, in place of a file in each run folder."""
