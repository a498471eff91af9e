"""Find the classes that the files of a room declare, so that a file in the room is all that a new one takes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TypeVar

T = TypeVar("T")


def classes_in(room: str, base: type[T]) -> set[type[T]]:
    """The subclasses of a class in the modules of a package, which may lie above this one and is therefore named."""
    package = importlib.import_module(room)
    modules = [importlib.import_module(f"{room}.{each.name}") for each in pkgutil.iter_modules(package.__path__)]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    return {each for each in found if issubclass(each, base) and each is not base}
