"""Members of an ensemble compared: how alike, families of features, one text through all, stages."""

from dashboard.views import Page

PAGE = Page(60, "Compare members", icon="compare_arrows")
