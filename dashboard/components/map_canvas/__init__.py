"""The map's canvas: a Streamlit component that paints 131,072 points without a GPU, and what it reports.

The points travel in a message of their own, from a mount that shows nothing; what changes at a click stays small. The
modules beside this file are joined into one script, since Streamlit imports a component's script from memory, where no
module finds another.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

_HERE = Path(__file__).parent
MODULES = ("points", "view", "paint", "panel", "chrome", "map")
"""In an order in which each uses only what stands before it while it is loaded; the last one is the component."""
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)


def script() -> str:
    """All modules as one, with nothing to import and the component as the only thing exported."""
    texts = [(_HERE / f"{name}.js").read_text(encoding="utf-8") for name in MODULES]
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in texts)


_component = st.components.v2.component(
    "sae_ensemble_atom_map", css=(_HERE / "map.css").read_text(encoding="utf-8"), js=script()
)


@dataclass(frozen=True, slots=True)
class Listed:
    """The points that were asked to be listed.

    Attributes:
        by: How they were chosen: ``lasso``, or ``search`` and its words.
        points: Their numbers, ascending.
    """

    by: str
    points: NDArray[np.int64]


def send_points(data: Mapping[str, Any]) -> None:
    """Send points to the browser, for the maps that name their key.

    Args:
        data: key, count, x and y (`base64_of` uint16 [M]), and columns: title, values, and as index each point's value.
    """
    _component(key=f"points-{data['key']}", data={"kind": "points", **data})


def show_map(
    data: Mapping[str, Any], *, key: str, on_feature: Callable[[], None], count: int
) -> tuple[int | None, Listed | None]:
    """Draw a map.

    Args:
        data: What ``MapData`` in ``map.js`` says.
        key: The widget's key; its state has the chosen point as ``feature``.
        on_feature: Called before the rerun that follows a click.
        count: Number of points, M.

    Returns:
        The point that was clicked last, and the points to be listed.
    """
    result = _component(
        key=key,
        data={"kind": "map", **data},
        on_feature_change=on_feature,
        on_list_change=_nothing,
    )
    return clicked(result.get("feature"), count), listed(result.get("list"), str(data["points"]), count)


def _nothing() -> None:
    """A component keeps a value only if there is a callback for it."""


def clicked(value: object, count: int) -> int | None:
    """The point that the browser names, or None; what a browser sends is not trusted."""
    return value if type(value) is int and 0 <= value < count else None


def listed(value: object, key: str, count: int) -> Listed | None:
    """The points that the browser lists; None if there are none, or they are of other points than ``key``."""
    if not isinstance(value, Mapping) or value.get("points") != key or not isinstance(value.get("bits"), str):
        return None
    try:
        raw = base64.b64decode(value["bits"], validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != -(-count // 8):
        return None
    flags = np.unpackbits(np.frombuffer(raw, np.uint8), count=count)
    return Listed(str(value.get("by", ""))[:200], np.flatnonzero(flags))


def base64_of(values: NDArray[Any]) -> str:
    """An array's bytes, little-endian, as base64."""
    return base64.b64encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def bits_of(flags: NDArray[np.bool_]) -> str:
    """Flags as base64, eight in a byte, the first one in the highest bit."""
    return base64_of(np.packbits(flags))
