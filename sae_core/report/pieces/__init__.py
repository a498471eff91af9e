"""Pieces of HTML that the dashboard and notebooks share: token strips, histograms, chips, bars, their style sheet."""
