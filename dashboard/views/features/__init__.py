"""The table of all features of an ensemble."""

from dashboard.views import Page

PAGE = Page(20, "Features", icon="format_list_bulleted")
