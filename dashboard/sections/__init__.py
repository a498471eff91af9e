"""Sections of pages that are too long for the page's own file."""
