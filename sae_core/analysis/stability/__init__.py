"""Measure whether independent trainings find the same features."""
