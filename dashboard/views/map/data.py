"""What the map page reads: points, colours, cluster names, shares of concepts and joint maps, each cached."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from dashboard.shared.reads.cached import modified
from dashboard.shared.reads.cluster_names import cluster_names
from dashboard.shared.reads.finding import carriers
from dashboard.shared.reads.label_store import label_texts
from dashboard.shared.reads.opening import EnsembleInfo, open_run
from dashboard.shared.reads.tables import atoms, corpus, index, suggestions
from dashboard.views.map import drawing
from sae_core.analysis.concepts.share import concept_columns, concept_share
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

KEPT = 6


@dataclass(frozen=True, slots=True)
class MapPoints:
    """The atoms of a map.

    Attributes:
        table: One row an atom: those of `atoms` with label and suggestion; of a joint map also side, closest, cosine.
        key: Names these atoms and all that is known of them.
        data: What the canvas keeps of them.
        names: The clusters' names and where they are written.
    """

    table: pd.DataFrame
    key: str
    data: Mapping[str, Any]
    names: Sequence[Mapping[str, Any]]


def map_points(run: Run, info: EnsembleInfo) -> MapPoints | None:
    """The atoms of an ensemble on its map; None where there is no map."""
    table = atoms(run, info.name)
    if table is None or "x" not in table or table["x"].isna().all():
        return None
    known = _known(run, info)
    return _points(known.key, _build=partial(_with_texts, table, known))


def joint_points(sides: Sequence[tuple[Run, EnsembleInfo]], path: Path) -> MapPoints:
    """The atoms of two ensembles on their joint map.

    Args:
        sides: Both, the left one first.
        path: What `make_joint_map` has written.
    """
    known = [_known(run, info) for run, info in sides]
    stamp = (str(path), modified(path), [each.key for each in known])
    key = hashlib.blake2b(repr(stamp).encode(), digest_size=12).hexdigest()
    return _points(key, _build=lambda: _joined(sides, known, read_table(path)))


@dataclass(frozen=True, slots=True)
class _Known:
    """What people and the index say of an ensemble's features, and a key that changes with it."""

    key: str
    labels: Mapping[int, str]
    suggestions: pd.DataFrame | None


def _known(run: Run, info: EnsembleInfo) -> _Known:
    labels = label_texts(run, info.name)
    folder = run.ensemble(info.name)
    stamp = (str(run.path), info.name, modified(folder.atoms), modified(folder.suggestions), sorted(labels.items()))
    return _Known(
        hashlib.blake2b(repr(stamp).encode(), digest_size=12).hexdigest(), labels, suggestions(run, info.name)
    )


@st.cache_resource(max_entries=KEPT, show_spinner="Preparing the map …")
def _points(key: str, _build: Callable[[], pd.DataFrame]) -> MapPoints:
    table = _build()
    xy = table[["x", "y"]].to_numpy(np.float64)
    columns = {"label": table["label"].tolist()}
    if "suggestion" in table:
        columns["suggestion"] = table["suggestion"].tolist()
    columns["top token"] = drawing.token_texts(table["top_token"])
    cluster = table["cluster"].to_numpy(np.int64)
    marks = drawing.cluster_marks(cluster, cluster_names(table), xy)
    return MapPoints(table, key, drawing.points_data(key, xy, columns), marks)


def _with_texts(table: pd.DataFrame, known: _Known) -> pd.DataFrame:
    more: dict[str, list[Any]] = {"label": [known.labels.get(feature, "") for feature in table["feature"].tolist()]}
    if known.suggestions is not None and len(known.suggestions) == len(table):
        more["suggestion"] = known.suggestions["suggestion"].tolist()
        # What a list as CSV says of each besides.
        there = [name for name in ("precision", "recall") if name in known.suggestions]
        more |= {f"suggestion_{name}": known.suggestions[name].tolist() for name in there}
    return table.assign(**more)


def _joined(sides: Sequence[tuple[Run, EnsembleInfo]], known: Sequence[_Known], places: pd.DataFrame) -> pd.DataFrame:
    tables = []
    for (run, info), each in zip(sides, known, strict=True):
        table = atoms(run, info.name)
        assert table is not None, "the page asks for joint maps of indexed ensembles only"
        tables.append(_with_texts(table, each))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(
        **{name: places[name].to_numpy() for name in ("side", "x", "y", "cluster", "closest", "cosine")}
    )


def map_colors(points: MapPoints, color: str, word: str, concept: tuple[Run, str, str, str] | None) -> dict[str, Any]:
    """The colours of a map's points, as the canvas gets them.

    Args:
        points: The points.
        color: A key of `drawing.COLORS`, or ``closest`` or ``side``.
        word: What a member is called.
        concept: For ``concept``: run, ensemble, and column and value of `concept_choices`. For ``detector``: run,
            ensemble, and task and concept that were detected.
    """
    asked = None if concept is None else (str(concept[0].path), *concept[1:])
    stamp = 0 if concept is None else modified(concept[0].evaluation_table(CONCEPTS.name))
    return _colors(points.key, color, word, asked, stamp, _points=points)


@st.cache_resource(max_entries=24, show_spinner="Colouring the map …")
def _colors(
    key: str, color: str, word: str, concept: tuple[str, str, str, str] | None, stamp: int, _points: MapPoints
) -> dict[str, Any]:
    table = _points.table
    if concept is None:
        return drawing.color_atoms(table, color, word=word).data()
    path, ensemble, column, value = concept
    if color == "detector":
        return _detection(table, path, ensemble, f"{column}/{value}", word)
    share, usual = _share(path, ensemble, column, value)
    data = drawing.color_atoms(table.assign(concept=share), "concept", word=word).data()
    data["name"] += f" {column} {value}"
    data["legend"]["title"] = f"share within {value} (of all tokens: {usual:.0%})"
    return data


def _detection(table: pd.DataFrame, path: str, ensemble: str, concept: str, word: str) -> dict[str, Any]:
    found = carriers(open_run(Path(path)), ensemble, concept).table
    least = np.zeros(len(table), np.int64)
    least[found["feature"].to_numpy()] = np.round(1 / found["score"].to_numpy(np.float64))
    data = drawing.color_atoms(table.assign(detector=least), "detector", word=word).data()
    data["name"] += f" {concept}"
    data["legend"]["title"] = f"chosen to detect {concept.replace('/', ' · ', 1)}"
    return data


def _share(path: str, ensemble: str, column: str, value: str) -> tuple[NDArray[np.float64], float]:
    run = open_run(Path(path))
    entries, text = index(run, ensemble), corpus(run)
    assert entries is not None, "a map is made after the index"
    assert text is not None, "the index is made of a corpus"
    return concept_share(entries, text, column, value)


def concept_choices(run: Run) -> Mapping[str, tuple[str, str]]:
    """Kinds of passages that the corpus tells apart, as text → (column, value)."""
    return _choices(str(run.path), modified(run.corpus.documents)) if run.corpus.tokens.exists() else {}


@st.cache_resource(max_entries=24, show_spinner=False)
def _choices(path: str, modified: int) -> Mapping[str, tuple[str, str]]:
    text = corpus(open_run(Path(path)))
    columns = {} if text is None else concept_columns(text)
    return {f"{name}: {value}": (name, value) for name, values in columns.items() for value in values}
