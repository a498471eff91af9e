"""Environment variables that people may set."""

AUTHOR = "SAE_ENSEMBLE_AUTHOR"
"""The author of new labels."""
LABELS = "SAE_ENSEMBLE_LABELS"
"""A database that holds the labels of all runs, instead of one file in each run folder."""
HOSTS = "SAE_ENSEMBLE_HOSTS"
"""Further host names under which the dashboard answers, separated by commas."""
