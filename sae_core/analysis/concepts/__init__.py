"""Concept detection with few features."""
