"""Malformed inputs by kind, and the campaign in which each is tried."""
