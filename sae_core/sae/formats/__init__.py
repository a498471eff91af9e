"""Sparse autoencoders on disk."""
