"""The overview: figures of all ensembles, what they come to, training curves, and what is not finished."""
