"""Remove spurious correlations by ablating features."""
