"""One feature: examples, histogram, what is near, its label."""

from dashboard.views import Page

PAGE = Page(30, "Feature")
