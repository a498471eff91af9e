"""Suggested labels for features."""
