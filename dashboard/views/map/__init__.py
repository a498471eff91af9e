"""The map of all atoms."""

from dashboard.views import Page

PAGE = Page(70, "Atom map", icon="scatter_plot")
