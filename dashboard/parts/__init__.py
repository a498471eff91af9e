"""Pure functions from data to figure or HTML."""
