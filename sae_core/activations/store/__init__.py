"""Activations on disk: cached, checked, shuffled."""
