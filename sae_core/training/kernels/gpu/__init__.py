"""The fast training step on a GPU."""
