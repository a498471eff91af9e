"""Removing spurious correlations by ablating features."""
