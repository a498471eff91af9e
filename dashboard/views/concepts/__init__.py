"""How well few features detect a concept."""

from dashboard.views import Page

PAGE = Page(80, "Concepts", icon="category")
