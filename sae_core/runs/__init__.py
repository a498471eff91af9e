"""Whole runs: from text to what can be browsed, swept over settings, and planned beforehand."""
