"""A typed text, and the features that fire on it."""
