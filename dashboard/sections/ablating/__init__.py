"""Features ablated by hand: the bench of the page on spurious correlations."""

from dashboard.sections.ablating.page import workbench

__all__ = ["workbench"]
