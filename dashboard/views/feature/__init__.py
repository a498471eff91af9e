"""One feature: examples, histogram, what is near, its label."""
