"""How the loops of the fast training step are compiled: by Numba, when first needed, kept on the disk if it may be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import Any

from numba import njit

# Sums may be reordered, so that they run in vector registers; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}


class Loop:
    """A function that is compiled for the types of its signature when it is first called.

    Numba looks at a function's own file alone when it asks whether what it kept is still right, so a function calls
    only functions of its own file.
    """

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        self._function, self._signature = function, signature
        update_wrapper(self, function)

    @cached_property
    def compiled(self) -> Any:
        """The machine code; compiling takes up to two seconds, reading what was kept some milliseconds."""
        return _compile(self._function, self._signature)

    def __call__(self, *arguments: Any) -> Any:
        """Run it."""
        return self.compiled(*arguments)


def loop(signature: Any) -> Callable[[Callable[..., Any]], Loop]:
    """Make a function a `Loop` with a signature in Numba's notation, or of its types."""
    return lambda function: Loop(function, signature)


def inlined(function: Callable[..., Any]) -> Any:
    """Let loops of the same file call a function."""
    return _compile(function)


def _compile(function: Callable[..., Any], *signature: Any) -> Any:
    try:
        return njit(*signature, cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache may be written to
        return njit(*signature, **_OPTIONS)(function)
