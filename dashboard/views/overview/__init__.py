"""The overview: figures of all ensembles, what they come to, training curves, and what is not finished."""

from dashboard.views import Page

PAGE = Page(10, "Overview", icon="dashboard")
