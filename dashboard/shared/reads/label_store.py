"""People's labels, read anew only when somebody has written, and the families that a label may be given to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from dashboard.shared.reads.cached import ENTRIES, modified, optional_table
from dashboard.shared.reads.opening import EnsembleInfo
from sae_core.analysis.similarity.pair_scores import atom_cosines
from sae_core.foundation.run import Run
from sae_core.labels import Copy, Label, LabelStore, labels_of


def labels(run: Run) -> LabelStore:
    """The run's labels, in its folder or in the database of a team."""
    return labels_of(run)


def label_list(run: Run) -> Sequence[Label]:
    """All labels of a run, in the order of features."""
    return _read(labels(run)).found


def label_texts(run: Run, ensemble: str) -> Mapping[int, str]:
    """The labels of an ensemble by feature, notes without one left out; shared and never to be changed."""
    return _read(labels(run)).texts.get(ensemble, {})


def label_stamp(run: Run) -> tuple[str | int, ...]:
    """What changes whenever a label of a run does."""
    store = labels(run)
    return store.place, store.run_name, store.revision(), _file_of(store)


class _Labels(NamedTuple):
    """All labels of a run as they are asked for."""

    found: Sequence[Label]
    texts: Mapping[str, Mapping[int, str]]


def _read(store: LabelStore) -> _Labels:
    return _labels(store, store.place, store.run_name, store.revision(), _file_of(store))


@st.cache_resource(max_entries=ENTRIES, show_spinner=False)
def _labels(_store: LabelStore, place: str, run: str, revision: int, file: int) -> _Labels:
    found = _store.all()
    texts: dict[str, dict[int, str]] = {}
    for label in found:
        if label.label:
            texts.setdefault(label.ensemble, {})[label.feature] = label.label
    return _Labels(found, texts)


def _file_of(store: LabelStore) -> int:
    """What tells a file from another one that has taken its place."""
    try:
        return store.path.stat().st_ino
    except OSError:
        return 0


def label_of(run: Run, info: EnsembleInfo, feature: int) -> Label | None:
    """A feature's label."""
    return labels(run).get(info.name, feature)


def copies_in_family(run: Run, info: EnsembleInfo, feature: int) -> Sequence[Copy]:
    """The other features of a feature's family with the cosine of their atoms, the most alike first."""
    path = run.ensemble(info.name).atoms
    atoms = optional_table(path)
    if atoms is None or feature >= len(atoms) or int(atoms["family"].iloc[feature]) < 0:
        return ()
    return _family(run, info, str(path), modified(path), feature)


@st.cache_data(max_entries=500, show_spinner=False)
def _family(_run: Run, _info: EnsembleInfo, path: str, modified: int, feature: int) -> list[Copy]:
    atoms = optional_table(_run.ensemble(_info.name).atoms)
    assert atoms is not None, "looked at before"
    family = atoms["feature"][atoms["family"] == atoms["family"].iloc[feature]]
    others = [int(number) for number in family if int(number) != feature]
    scores = atom_cosines(_run.ensemble(_info.name), _info.widths, feature, others)
    copies = [Copy(other, *_info.place(other), score) for other, score in zip(others, scores, strict=True)]
    return sorted(copies, key=lambda copy: -copy.score)
