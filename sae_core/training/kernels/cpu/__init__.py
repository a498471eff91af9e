"""The fast training step on a CPU."""
