"""Removing a spurious correlation by hand: features to ablate, and what comes of it."""

from dashboard.views import Page

PAGE = Page(90, "Spurious correlations", icon="link_off")
