"""The reconstructions of ensembles, and their effect on the language model."""
