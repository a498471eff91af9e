"""How well ensembles reconstruct, and what that does to the language model."""
