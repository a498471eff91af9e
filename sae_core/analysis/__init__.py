"""Analyse a trained run: one folder per subject."""
