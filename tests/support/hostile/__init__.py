"""Malformed inputs by kind, and the campaign that tries each."""
