"""The cost of ensembles, and the result of one SAE at the same effort."""
