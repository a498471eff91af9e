"""The clusters of the atom map as people read them: the same names on the map and in menus."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.shared.reads.tables import atoms, suggestions
from sae_core.activations.origins.text.shown import NEWLINE, SPACE, TAB, show_alone
from sae_core.analysis.atoms.cluster_names import name_clusters
from sae_core.foundation.run import Run

_WORD = re.compile("“(.+?)”")
_SPACES = f"{SPACE}{NEWLINE}{TAB}"


def cluster_names(table: pd.DataFrame) -> list[str]:
    """The name of each cluster, "" where its features have no words.

    Args:
        table: One row a feature: cluster, top_token and, if there is, suggestion. The words are those quoted in a
            suggested label; the top token, where there are none.
    """
    return name_clusters(table["cluster"].to_numpy(np.int64), _words(table))


def clusters(run: Run, info: EnsembleInfo) -> dict[int, str]:
    """The clusters of an ensemble's map by size, each with its name and its number of features."""
    folder = run.ensemble(info.name)
    stamp = (modified(folder.atoms), modified(folder.suggestions))
    return _clusters(str(folder.path), stamp, _run=run, _info=info)


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _clusters(path: str, stamp: tuple[int, int], _run: Run, _info: EnsembleInfo) -> dict[int, str]:
    table = atoms(_run, _info.name)
    if table is None or "cluster" not in table:
        return {}
    suggested = suggestions(_run, _info.name)
    if suggested is not None and len(suggested) == len(table):
        table = table.assign(suggestion=suggested["suggestion"].tolist())
    names, sizes = cluster_names(table), table.loc[table["cluster"] >= 0, "cluster"].value_counts()
    return {
        cluster: " · ".join(filter(None, (str(cluster), names[cluster], f"{size} features")))
        for cluster, size in zip(sizes.index.tolist(), sizes.tolist(), strict=True)
    }


def _words(table: pd.DataFrame) -> list[Sequence[str]]:
    tokens = table["top_token"].tolist()
    # Most texts are those of many features.
    of_token = {token: _told([show_alone(token)]) for token in set(tokens)}
    if "suggestion" not in table:
        return [of_token[token] for token in tokens]
    suggested = table["suggestion"].tolist()
    of_suggestion = {text: _told(_WORD.findall(text)) for text in set(suggested)}
    return [of_suggestion[text] or of_token[token] for text, token in zip(suggested, tokens, strict=True)]


def _told(words: Sequence[str]) -> Sequence[str]:
    """Words without the spaces around them, and without those of signs alone, which would say nothing to anybody."""
    return [word.strip(_SPACES).lower() for word in words if any(sign.isalnum() for sign in word)]
