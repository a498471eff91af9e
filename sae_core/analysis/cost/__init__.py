"""What ensembles cost, and what one SAE does for the same effort."""
