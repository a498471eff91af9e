"""What the map shows: places, colours with their legend, texts, names of clusters. Pure functions from tables to data.

The canvas (`dashboard.components.map_canvas`) draws them; a colour is a number into a palette of at most 256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from dashboard.components.map_canvas import base64_of, bits_of
from sae_core.foundation.colours import HIGHLIGHT, MEMBERS, NEUTRAL, SEQUENTIAL, member_color
from sae_core.report.pieces.tokens import show_alone

COLORS = {
    "member": "Member",
    "density": "Density",
    "stability": "Stability",
    "cluster": "Cluster",
    "label": "Label",
    "concept": "Concept",
    "detector": "Detection",
}
EXPLANATIONS = {
    "member": "colour is the {word}, so mixed neighbourhoods are features that several {word}s found",
    "density": "colour is the share of tokens on which a feature fires, on a log scale",
    "stability": "colour is the share of the other {word}s that have the feature too (cosine ≥ 0.7)",
    "cluster": "colour is the cluster (HDBSCAN on the map), grey belongs to none; names are the words that suggested "
    "labels or top tokens of a cluster share and others have not (class-based TF-IDF)",
    "label": "colour is the label; labels that several features share have colours of their own",
    "concept": "colour is the share of a feature's firing tokens that stand in passages of the concept",
    "detector": "colour is the size of the smallest set of features, chosen on training texts to detect the concept, "
    "that the feature is in",
    "closest": "colour is the cosine with the most similar atom of the other side: dark ones have no counterpart there",
    "side": "colour is the side",
}
EDGE = 65_535
_STEPS, _RAMP = 64, (0.1, 0.95)  # the ends of the ramp would not be seen on dark and light pages
_LONGEST = 90
_OWN_COLORS = 7


@dataclass(frozen=True, slots=True)
class Coloring:
    """A colour for each point.

    Attributes:
        name: What it is made of; whoever takes categories off the map gets them back when it changes.
        colors: Colour of each point, as a number into the palette, uint8 [M].
        palette: Colours as #rrggbb.
        legend: title, and entries (text, color) or ramp (colours) and ticks (text, at 0 to 1).
        front: Colours of points that are drawn larger and above the others.
    """

    name: str
    colors: NDArray[np.uint8]
    palette: Sequence[str]
    legend: dict[str, Any]
    front: Sequence[int] = field(default_factory=tuple)

    def data(self) -> dict[str, Any]:
        """What the canvas gets."""
        return {
            "name": self.name,
            "index": base64_of(self.colors),
            "palette": list(self.palette),
            "legend": self.legend,
            "front": list(self.front),
        }


def color_atoms(atoms: pd.DataFrame, color: str, *, word: str = "member") -> Coloring:
    """The colours of one of `COLORS`, or of ``closest`` or ``side`` of a joint map.

    Args:
        atoms: One row a feature: member, density, stability, cluster, label; for ``concept`` also concept, a share,
            and for ``detector`` detector, the least number of features with which it was chosen, 0 if it never was.
        color: What to colour by.
        word: What a member is called.
    """
    if color in ("member", "side"):
        numbers = atoms[color].to_numpy(np.int64)
        count = int(numbers.max(initial=-1)) + 1
        names = ["left", "right"] if color == "side" else [f"{word} {number}" for number in range(count)]
        return _categories(color, word if color == "member" else "", numbers, names[:count])
    if color == "cluster":
        return _clusters(atoms["cluster"].to_numpy(np.int64))
    if color == "label":
        return _labels(atoms["label"])
    if color == "detector":
        return _detectors(atoms["detector"].to_numpy(np.int64))
    return _ramp(color, atoms[{"closest": "cosine"}.get(color, color)].to_numpy(np.float64))


def _categories(name: str, title: str, numbers: NDArray[np.int64], names: Sequence[str]) -> Coloring:
    palette = [member_color(number) for number in range(max(len(names), 1))]
    entries = [{"text": text, "color": number} for number, text in enumerate(names)]
    return Coloring(name, numbers.astype(np.uint8), palette, {"title": title, "entries": entries})


def _clusters(cluster: NDArray[np.int64]) -> Coloring:
    found = int(cluster.max(initial=-1)) + 1
    colors = np.where(cluster < 0, len(MEMBERS), cluster % len(MEMBERS)).astype(np.uint8)
    title = f"{found:,} clusters" + ("; colours repeat" if found > len(MEMBERS) else "")
    entries = [{"text": "in no cluster", "color": len(MEMBERS)}]
    return Coloring("cluster", colors, [*MEMBERS, NEUTRAL], {"title": title, "entries": entries})


def _labels(labels: pd.Series[str]) -> Coloring:
    """Labels of several features get a colour each, as long as there are any."""
    counts = labels[labels != ""].value_counts()
    shared = sorted(counts.index[counts > 1], key=lambda label: (-counts[label], label))[:_OWN_COLORS]
    numbers = {label: number for number, label in enumerate(shared)}
    other, none = len(shared), len(shared) + 1
    codes = [numbers.get(label, other if label else none) for label in labels]
    palette = [*MEMBERS[: len(shared)], HIGHLIGHT, NEUTRAL]
    texts = [_short(label, 40) for label in shared] + ["other labels" if shared else "labelled", "not labelled"]
    entries = [{"text": text, "color": number} for number, text in enumerate(texts)]
    legend = {"title": "label", "entries": entries}
    return Coloring("label", np.array(codes, np.uint8), palette, legend, front=tuple(range(none)))


def _detectors(least: NDArray[np.int64]) -> Coloring:
    """Features that were chosen get a colour for each number of them, stronger where fewer were enough."""
    counts = np.unique(least[least > 0])
    codes = np.where(least > 0, np.searchsorted(counts, least), len(counts)).astype(np.uint8)
    points = np.linspace(*_RAMP[::-1], max(len(counts), 2)).tolist()
    palette = [*(_hex(color) for color in sample_colorscale(SEQUENTIAL, points)[: len(counts)]), NEUTRAL]
    texts = ["best alone" if count == 1 else f"among the best {count:,}" for count in counts.tolist()]
    entries = [{"text": text, "color": number} for number, text in enumerate([*texts, "not chosen"])]
    legend = {"title": "detects the concept", "entries": entries}
    return Coloring("detector", codes, palette, legend, front=tuple(range(len(counts))))


def _ramp(name: str, values: NDArray[np.float64]) -> Coloring:
    known = np.isfinite(values)
    if name == "density":
        known &= values > 0
        values = np.log10(np.where(known, values, 1.0))
    low, high = _ends(name, values[known])
    share = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-12), 0, 1)
    colors = np.where(known, np.round(share * (_STEPS - 1)), _STEPS).astype(np.uint8)
    points = np.linspace(*_RAMP, _STEPS).tolist()
    palette = [*(_hex(color) for color in sample_colorscale(SEQUENTIAL, points)), NEUTRAL]
    legend: dict[str, Any] = {
        "title": _TITLES[name],
        "ramp": list(range(0, _STEPS, 7)),
        "ticks": _ticks(name, low, high),
    }
    if not known.all():
        legend["entries"] = [{"text": "never fires" if name == "density" else "not known", "color": _STEPS}]
    return Coloring(name, colors, palette, legend)


_TITLES = {
    "density": "density",
    "stability": "stability",
    "concept": "share within the concept",
    "closest": "largest cosine with the other side",
}


def _ends(name: str, values: NDArray[np.float64]) -> tuple[float, float]:
    if name != "density":
        return 0.0, 1.0
    return float(np.floor(values.min(initial=-1.0))), float(np.ceil(values.max(initial=-1.0)))


def _ticks(name: str, low: float, high: float) -> list[dict[str, Any]]:
    if name == "density":
        exponents = range(int(low), int(high) + 1)
        return [{"text": f"{100 * 10.0**e:g} %", "at": (e - low) / max(high - low, 1)} for e in exponents]
    show = "{:g}".format if name == "closest" else "{:.0%}".format
    return [{"text": show(share), "at": share} for share in (0.0, 0.5, 1.0)]


def _hex(color: str) -> str:
    """``rgb(68, 1, 84)`` as #440154."""
    parts = [round(float(part)) for part in color[4:-1].split(",")]
    return "#{:02x}{:02x}{:02x}".format(*parts)


# Points


def points_data(key: str, xy_M2: NDArray[np.floating[Any]], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the canvas keeps of all points.

    Args:
        key: Names these points; the same key means the same points.
        xy_M2: Places; both axes keep their scale. Those that are not known lie in a corner (and should be hidden).
        columns: What is known of each point in words, by title.
    """
    x, y = places(xy_M2)
    return {
        "key": key,
        "count": len(xy_M2),
        "x": base64_of(x),
        "y": base64_of(y),
        "columns": [_column(title, texts) for title, texts in columns.items()],
    }


def places(xy_M2: NDArray[np.floating[Any]]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Places as numbers from 0 to `EDGE`: the map's longer side takes all of them, the other the middle."""
    xy_M2 = np.asarray(xy_M2, np.float64)
    known_M = np.isfinite(xy_M2).all(axis=1)
    if not known_M.any():
        return np.zeros(len(xy_M2), np.uint16), np.zeros(len(xy_M2), np.uint16)
    low_2, high_2 = xy_M2[known_M].min(axis=0), xy_M2[known_M].max(axis=0)
    scale = EDGE / max(float((high_2 - low_2).max()), 1e-12)
    place_M2 = EDGE / 2 + (xy_M2 - (low_2 + high_2) / 2) * scale
    place_M2 = np.clip(np.round(np.where(known_M[:, None], place_M2, 0)), 0, EDGE).astype(np.uint16)
    return place_M2[:, 0], place_M2[:, 1]


def _column(title: str, texts: Sequence[str]) -> dict[str, Any]:
    codes, values = pd.factorize(pd.Series(texts, dtype=object).map(lambda text: _short(str(text), _LONGEST)))
    return {"title": title, "values": [str(value) for value in values], "index": base64_of(codes.astype(np.uint32))}


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def token_texts(tokens: pd.Series[str]) -> list[str]:
    """Tokens as people see them on their own; a dead feature has none."""
    shown = {token: show_alone(token) if token else "" for token in tokens.unique()}
    return [shown[token] for token in tokens]


def hidden_points(atoms: pd.DataFrame, *, dead: bool) -> str | None:
    """Flags of the points that are not shown: those without a place, and dead ones unless they are wanted."""
    hidden = ~np.isfinite(atoms[["x", "y"]].to_numpy(np.float64)).all(axis=1)
    if not dead:
        hidden |= atoms["dead"].to_numpy(bool)
    return bits_of(hidden) if hidden.any() else None


def cluster_marks(
    cluster_M: NDArray[np.int64], names: Sequence[str], xy_M2: NDArray[np.floating[Any]]
) -> list[dict[str, Any]]:
    """The clusters' names where they are written, the largest cluster first: the median of its points."""
    x_M, y_M = places(xy_M2)
    frame = pd.DataFrame({"cluster": cluster_M, "x": x_M, "y": y_M})
    middle = frame[frame["cluster"] >= 0].groupby("cluster").median().astype(int).reset_index()
    rows = zip(*(middle[name].tolist() for name in ("cluster", "x", "y")), strict=True)
    return [{"text": _short(names[cluster], 44), "x": x, "y": y} for cluster, x, y in rows if names[cluster]]
