"""The map of all atoms."""
