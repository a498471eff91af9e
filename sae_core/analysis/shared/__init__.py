"""Shared parts of the analyses: sparse codes, pooling, intervals, random twins."""
