"""Bagged and boosted ensembles of sparse autoencoders: training, evaluation and what people look at."""

__version__ = "0.1.0"
