"""Removing a spurious correlation by hand: features to ablate, and what comes of it."""
