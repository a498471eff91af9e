"""Environment variables that people may set."""

AUTHOR = "SAE_ENSEMBLE_AUTHOR"
"""Who writes labels."""
LABELS = "SAE_ENSEMBLE_LABELS"
"""A database for the labels of all runs, in place of a file in each run folder."""
HOSTS = "SAE_ENSEMBLE_HOSTS"
"""Names, comma-separated, under which the dashboard may be asked for besides those of the address it is bound to."""
