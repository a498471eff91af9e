"""Ensembles of sparse autoencoders."""
