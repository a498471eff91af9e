"""Figures: reconstruction, the dictionary, concepts, cost."""
