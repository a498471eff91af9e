"""The pages, a folder each, which declares itself in its `__init__.py`; Streamlit runs its `page.py` as a script.

The folder is not called pages: beside an entrance script Streamlit takes a folder of that name for an app of its older
kind, and a link to a page that is the first visit to a fresh server would run the page without the entrance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        place: Pages stand in the sidebar by their place; the lowest is the one that opens first.
        title: What people read.
        icon: Name of a Material symbol; a page without one is not in the sidebar, and reached by links alone.
    """

    place: int
    title: str
    icon: str = ""


@cache
def pages() -> Mapping[str, Page]:
    """All pages in their order, by the name of their folder, which is their path in the address, too."""
    found = {one.name: import_module(f"{__name__}.{one.name}").PAGE for one in iter_modules(__path__) if one.ispkg}
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def file_of(name: str) -> str:
    """The file of a page, as Streamlit knows it: from the entrance on."""
    return f"views/{name}/page.py"
