"""Pinned features side by side."""

from dashboard.views import Page

PAGE = Page(50, "Pinned features", icon="keep")
