"""Runs over combinations of settings."""
