"""The package as a Python programmer meets it: train on an array, look at a run's features, evaluate."""
