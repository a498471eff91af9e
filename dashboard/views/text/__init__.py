"""A typed text, and the features that fire on it."""

from dashboard.views import Page

PAGE = Page(40, "Type a text", icon="keyboard")
