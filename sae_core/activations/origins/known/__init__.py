"""Activations drawn from a known dictionary."""
