"""All labels of a run: the table, several at once, files, history."""

from dashboard.views import Page

PAGE = Page(100, "Labels", icon="sell")
