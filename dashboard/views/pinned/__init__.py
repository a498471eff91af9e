"""Pinned features side by side."""
