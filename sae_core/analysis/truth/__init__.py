"""Score ensembles on a known dictionary."""
