"""The table of all features of an ensemble."""
