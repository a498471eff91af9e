"""Which features a choice of filters finds: the table of all, tokens and concepts that rank them, their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from dashboard.shared import filters as chosen
from dashboard.shared.filters import Filters
from dashboard.shared.reads.cached import ENTRIES, modified, optional_file
from dashboard.shared.reads.label_store import label_list, label_stamp
from dashboard.shared.reads.opening import EnsembleInfo, open_run
from dashboard.shared.reads.tables import atoms, concepts, corpus, suggestions
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.analysis.index.by_token import ByToken, TokenNames
from sae_core.analysis.shared.names_in_tables import STANDARDISED
from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run
from sae_core.labels import WRITTEN

TABLES, ORDERS = 8, 32
"""Tables with labels and orders kept: an order of 131,072 features takes a megabyte, a table's own columns two."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Features that go with a token or a concept.

    Attributes:
        table: Rows feature and score, the best first; for a token also token (its text), share and fires.
        tokens: Texts of the tokens that were found.
        instead: Texts of tokens that begin with what was typed, if none was found.
    """

    table: pd.DataFrame
    tokens: Sequence[str] = ()
    instead: Sequence[str] = ()


def features(run: Run, info: EnsembleInfo) -> pd.DataFrame | None:
    """All features: the columns of `atoms`, those of `WRITTEN` as texts, and search_text; shared, never to be changed.

    With a logit lens also promoted_text, and with suggestions also suggestion.
    """
    stamp = (*_stamp(run, info), *label_stamp(run))
    return _labelled(str(run.path), info, stamp) if stamp[0] else None


def _stamp(run: Run, info: EnsembleInfo) -> tuple[int, ...]:
    """What changes whenever something but labels does on which features are found."""
    folder = run.ensemble(info.name)
    files = (folder.atoms, folder.promoted, folder.suggestions, folder.by_token, run.evaluation_table(CONCEPTS.name))
    return tuple(map(modified, files))


@st.cache_resource(max_entries=TABLES, show_spinner=False)
def _labelled(path: str, info: EnsembleInfo, stamp: tuple[str | int, ...]) -> pd.DataFrame:
    run = open_run(Path(path))
    table = _searchable(path, info.name, stamp[:3]).copy(deep=False)
    mine = [one for one in label_list(run) if one.ensemble == info.name and one.feature < len(table)]
    for column, kind in WRITTEN.items():
        texts = np.full(len(table), "", object)
        texts[[one.feature for one in mine]] = [kind.text(getattr(one, column)) for one in mine]
        table[column] = pd.Series(texts, dtype=object)
    return table


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _searchable(path: str, name: str, stamp: tuple[str | int, ...]) -> pd.DataFrame:
    run = open_run(Path(path))
    table = atoms(run, name)
    assert table is not None
    table = table.copy(deep=False)
    lens = run.ensemble(name).promoted
    if lens.exists():
        table["promoted_text"] = pd.Series([" ".join(tokens) for tokens in read_table(lens)["promoted"]])
    suggested = suggestions(run, name)
    if suggested is not None and len(suggested) == len(table):
        table["suggestion"] = suggested["suggestion"].fillna("").astype(str)
    table["search_text"] = chosen.searchable(table)
    return table


def order(run: Run, info: EnsembleInfo, filters: Filters) -> NDArray[np.int64]:
    """The features that filters choose, in their order; shared, and never to be changed."""
    stamp = (*_stamp(run, info), *(label_stamp(run) if filters.reads_texts else ()))
    return _order(str(run.path), info, filters, stamp)


@st.cache_resource(max_entries=ORDERS, show_spinner=False)
def _order(path: str, info: EnsembleInfo, filters: Filters, stamp: tuple[str | int, ...]) -> NDArray[np.int64]:
    run = open_run(Path(path))
    # Texts of all features take half a second to put together; a first page that needs none does not wait for them.
    table = features(run, info) if filters.reads_texts else atoms(run, info.name)
    if table is None:
        return np.empty(0, np.int64)
    found = ranking(run, info, filters)
    ranked = found.table["feature"].tolist() if found is not None else None
    return table["feature"].to_numpy(np.int64)[chosen.places(table, filters, ranked=ranked)]


def ranking(run: Run, info: EnsembleInfo, filters: Filters) -> Ranking | None:
    """What the token or the concept of a choice ranks, those of the token that the concept has, too; None without."""
    by_token = driven_by(run, info.name, filters.token) if filters.token else None
    by_concept = carriers(run, info.name, filters.concept) if filters.concept else None
    if by_token is None or by_concept is None:
        return by_token or by_concept
    both = by_token.table[by_token.table["feature"].isin(by_concept.table["feature"])]
    return Ranking(both, by_token.tokens, by_token.instead)


def driven_by(run: Run, ensemble: str, typed: str) -> Ranking:
    """The features that a typed token drives, the one that tells it best first."""
    table, text, names = _by_token(run, ensemble), corpus(run), _token_names(run, ensemble)
    if table is None or text is None or names is None:
        return Ranking(pd.DataFrame({"feature": [], "score": []}, dtype=float).astype({"feature": int}))
    tokens = names.find(typed)
    found = table.driven_by(tokens)
    found["token"] = [text.token_text(token) for token in found["token"].tolist()]
    instead = [] if tokens else [text.token_text(token) for token in names.like(typed)]
    return Ranking(found, [text.token_text(token) for token in tokens], instead)


def has_tokens(run: Run, ensemble: str) -> bool:
    """Whether features can be found by token; runs that were indexed by older versions have no such table."""
    return run.ensemble(ensemble).by_token.exists()


def _by_token(run: Run, ensemble: str) -> ByToken | None:
    return optional_file(run.ensemble(ensemble).by_token, ByToken)


def _token_names(run: Run, ensemble: str) -> TokenNames | None:
    written = modified(run.ensemble(ensemble).by_token)
    return _open_names(str(run.path), ensemble, written) if written else None


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _open_names(path: str, ensemble: str, modified: int) -> TokenNames | None:
    run = open_run(Path(path))
    table, text = _by_token(run, ensemble), corpus(run)
    return TokenNames(text, np.asarray(table.tokens)) if table is not None and text is not None else None


def concept_names(run: Run, ensemble: str) -> list[str]:
    """The concepts, as ``task/concept``, that were detected with features of an ensemble."""
    table = concepts(run)
    if table is None or table.empty:
        return []
    mine = table[(table["method"] == ensemble) & (table["m"] > 0)]
    return list(dict.fromkeys((mine["task"].astype(str) + "/" + mine["concept"].astype(str)).tolist()))


def carriers(run: Run, ensemble: str, concept: str) -> Ranking:
    """The features that carry a concept, by how few features suffice for it to be among the chosen ones.

    Its score is 1/m for the smallest m for which it is one of the m features that were chosen on training texts, among
    standardised ones where they were measured: the choice is then not that of the features with the largest scale.
    """
    table = concepts(run)
    first: dict[int, int] = {}
    if table is not None and not table.empty:
        here = table["task"].astype(str) + "/" + table["concept"].astype(str) == concept
        mine = table[here & (table["method"] == ensemble) & (table["m"] > 0)].sort_values("m", kind="stable")
        scaled = mine["variant"] == STANDARDISED
        mine = mine[scaled] if scaled.any() else mine
        for m, members in zip(mine["m"].tolist(), mine["features"], strict=True):
            for feature in members:
                first.setdefault(int(feature), int(m))
    numbers = list(first)
    return Ranking(pd.DataFrame({"feature": np.array(numbers, int), "score": [1 / first[f] for f in numbers]}))
