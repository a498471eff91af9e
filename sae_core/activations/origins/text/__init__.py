"""Texts: from the embedded corpus, files and the hub, and how their tokens read."""
