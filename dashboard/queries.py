"""Reads of a run, cached: the only room of the dashboard that asks `sae_core` for data.

Memory maps and tables are shared between sessions and never changed; a key is a path and its modification time, so
that a run that goes on is seen as it is. What a run does not have yet is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sae_core.browse.corpus import Corpus
from sae_core.browse.examples import Example, Quantile, co_active, histogram, quantile_examples, top_examples
from sae_core.browse.index import ActivationIndex
from sae_core.browse.labels import Label, LabelStore
from sae_core.config import title_of
from sae_core.evaluation.summary import summarize
from sae_core.files import read_json, read_table
from sae_core.run import Run, find_runs

_ENTRIES = 24


@dataclass(frozen=True, slots=True)
class EnsembleInfo:
    """What the manifest says of an ensemble."""

    name: str
    method: str
    wiring: str
    widths: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def title(self) -> str:
        """What people read for its name."""
        return title_of(self.name)

    @property
    def members(self) -> int:
        """The number of members, J."""
        return len(self.widths)

    @property
    def features(self) -> int:
        """All features, M."""
        return sum(self.widths)

    @property
    def staged(self) -> bool:
        """Whether members are stages that encode what the ones before left."""
        return self.wiring == "residual" and self.members > 1

    @property
    def member_word(self) -> str:
        """What a member is called."""
        return "stage" if self.staged else "member"

    def place(self, feature: int) -> tuple[int, int]:
        """(member, number within the member) of a feature."""
        offsets = np.cumsum((0, *self.widths))
        member = int(np.searchsorted(offsets, feature, side="right") - 1)
        return member, int(feature - offsets[member])

    def feature(self, member: int, latent: int) -> int:
        """The inverse of `place`."""
        return sum(self.widths[:member]) + latent


def runs(root: Path) -> dict[str, Path]:
    """The runs at ``root`` by name."""
    return {path.name: path for path in find_runs(root)}


def open_run(path: Path) -> Run:
    """A run, opened anew if its manifest has changed."""
    return _run(str(path), _modified(path / "run.json"))


@st.cache_resource(max_entries=_ENTRIES, show_spinner=False)
def _run(path: str, modified: int) -> Run:
    return Run.open(Path(path))


def ensembles(run: Run) -> dict[str, EnsembleInfo]:
    """The trained ensembles by name, in the order of the settings."""
    infos = [_info(str(folder.manifest), _modified(folder.manifest), folder.name) for folder in run.ensembles()]
    return {info.name: info for info in infos}


@st.cache_resource(max_entries=_ENTRIES, show_spinner=False)
def _info(path: str, modified: int, name: str) -> EnsembleInfo:
    manifest = read_json(Path(path))
    return EnsembleInfo(
        name, manifest["method"], manifest["wiring"], tuple(manifest["widths"]), tuple(manifest["weights"])
    )


def summary(run: Run) -> list[dict[str, Any]]:
    """One row of figures per ensemble."""
    return summarize(run)


def evaluation(run: Run, name: str) -> dict[str, Any] | None:
    """One evaluation's figures."""
    path = run.evaluation(name)
    return read_json(path) if path.exists() else None


def concepts(run: Run) -> pd.DataFrame | None:
    """The concept detection table."""
    return _optional_table(run.evaluation_table("concepts"))


def curves(run: Run, ensemble: str) -> pd.DataFrame | None:
    """The training curves."""
    return _optional_table(run.ensemble(ensemble).curves)


def atoms(run: Run, ensemble: str) -> pd.DataFrame | None:
    """One row a feature."""
    return _optional_table(run.ensemble(ensemble).atoms)


def matches(run: Run, ensemble: str) -> pd.DataFrame | None:
    """Matches of features across members."""
    return _optional_table(run.ensemble(ensemble).matches)


def match_summary(run: Run, ensemble: str) -> dict[str, Any] | None:
    """Figures of each pair of members, and of random dictionaries."""
    path = run.ensemble(ensemble).match_summary
    return read_json(path) if path.exists() else None


def promoted(run: Run, ensemble: str) -> pd.DataFrame | None:
    """Tokens that each feature promotes and suppresses, one row a feature; the row number is the feature."""
    return _optional_table(run.ensemble(ensemble).promoted)


def index(run: Run, ensemble: str) -> ActivationIndex | None:
    """The activation index."""
    path = run.ensemble(ensemble).index
    return _index(str(path), _modified(path)) if path.exists() else None


@st.cache_resource(max_entries=_ENTRIES, show_spinner=False)
def _index(path: str, modified: int) -> ActivationIndex:
    return ActivationIndex.open(Path(path))


def corpus(run: Run) -> Corpus | None:
    """The indexed corpus."""
    path = run.corpus.tokens
    return _corpus(str(run.path), _modified(path)) if path.exists() else None


@st.cache_resource(max_entries=_ENTRIES, show_spinner="Opening the corpus …")
def _corpus(path: str, modified: int) -> Corpus:
    return Corpus.open(Run.open(Path(path)))


def labels(run: Run) -> LabelStore:
    """The run's labels."""
    return LabelStore(run.labels, run.path.name)


def label_table(run: Run) -> pd.DataFrame:
    """All labels of a run."""
    return labels(run).table()


def label_of(run: Run, info: EnsembleInfo, feature: int) -> Label | None:
    """A feature's label."""
    return labels(run).get(info.name, feature)


def features(run: Run, info: EnsembleInfo) -> pd.DataFrame | None:
    """All features with their labels: the columns of `atoms`, label, note and, with a lens, promoted_text."""
    table = atoms(run, info.name)
    if table is None:
        return None
    lens = run.ensemble(info.name).promoted
    table = table.copy(deep=False)
    if lens.exists():
        table["promoted_text"] = _promoted_text(str(lens), _modified(lens))
    mine = label_table(run).query("ensemble == @name", local_dict={"name": info.name})
    numbers = [info.feature(int(m), int(f)) for m, f in zip(mine["member"], mine["feature"], strict=True)]
    by_feature = pd.DataFrame({"label": mine["label"].to_numpy(), "note": mine["note"].to_numpy()}, index=numbers)
    for column in ("label", "note"):
        table[column] = by_feature[column].reindex(table["feature"]).fillna("").astype(str).to_numpy()
    return table


@st.cache_resource(max_entries=_ENTRIES, show_spinner=False)
def _promoted_text(path: str, modified: int) -> pd.Series[str]:
    return pd.Series([" ".join(tokens) for tokens in read_table(Path(path))["promoted"]])


@dataclass(frozen=True, slots=True)
class FeatureView:
    """What a feature's page shows of the index."""

    top: Sequence[Example]
    quantiles: Sequence[Quantile]
    edges: Sequence[float]
    counts: Sequence[int]
    peak: float
    tokens: int


def feature_view(run: Run, ensemble: str, feature: int, *, count: int = 12) -> FeatureView | None:
    """Examples and the histogram of one feature; None where there is no index or no corpus."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return None
    _, values = entries.feature(feature)
    edges, counts = histogram(values)
    return FeatureView(
        top=top_examples(entries, text, feature, count=count),
        quantiles=quantile_examples(entries, text, feature),
        edges=[float(edge) for edge in edges],
        counts=[int(number) for number in counts],
        peak=float(values.max()) if len(values) else 0.0,
        tokens=entries.tokens,
    )


def often_together(run: Run, ensemble: str, feature: int, *, count: int = 6) -> pd.DataFrame | None:
    """Features that fire on the same tokens: feature, share, lift."""
    entries = index(run, ensemble)
    return None if entries is None else co_active(entries, feature, count=count)


def peak_tokens(run: Run, ensemble: str, feature: int, *, count: int = 5) -> list[str]:
    """The different tokens on which a feature fires most strongly."""
    entries, text = index(run, ensemble), corpus(run)
    if entries is None or text is None:
        return []
    positions, values = entries.feature(feature)
    strongest = np.argsort(-np.asarray(values), kind="stable")[: 12 * count]
    tokens = dict.fromkeys(int(text.tokens[position]) for position in np.asarray(positions)[strongest])
    return [text.token_text(token) for token in list(tokens)[:count]]


def _optional_table(path: Path) -> pd.DataFrame | None:
    return _table(str(path), _modified(path)) if path.exists() else None


@st.cache_resource(max_entries=_ENTRIES, show_spinner=False)
def _table(path: str, modified: int) -> pd.DataFrame:
    return read_table(Path(path))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
