"""How the loops of the fast training step are compiled: by Numba, kept on the disk where that may be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be reordered, so that they run in vector registers; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}


def compiled(signature: str | None = None) -> Callable[[Any], Any]:
    """Compile a function: at once for the types of a signature, or into the functions that call it.

    Numba looks at a function's own file alone when it asks whether what it kept is still right, so a function calls
    only functions of its own file.
    """

    def decorate(function: Any) -> Any:
        types = () if signature is None else (signature,)
        try:
            return njit(*types, cache=True, **_OPTIONS)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache may be written to
            return njit(*types, **_OPTIONS)(function)

    return decorate
