"""Activations of a language model: texts cut into passages, read, replaced."""
