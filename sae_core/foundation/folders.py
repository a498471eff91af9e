"""Name the files in a run's corpus folder and in its ensemble folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
"""The files of a member, named as SAELens names them."""


class Within:
    """The path of a file or folder within the folder that an object has as ``path``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Any, owner: type) -> Path:
        there: Path = folder.path
        return there / self._name


@dataclass(frozen=True, slots=True)
class CorpusFolder:
    """Paths of the indexed corpus. Special tokens are not stored, so token t belongs to row t of the activations."""

    path: Path

    tokens = Within("tokens.safetensors")
    """Safetensors: ``tokens`` int32 [T]; ``offsets`` int64 [passages + 1], where each passage starts.

    Of arrays also ``runs`` int64, where what may be shown together starts, and ``alike`` int32 [T], which is equal
    for rows that look the same.
    """
    documents = Within("documents.parquet")
    """Parquet: one row per passage, with the metadata of its document (``source`` and what the text source gives).

    The columns ``document`` and ``passage`` are int64 and count from 1. Runs of older versions lack both columns;
    there, each passage is a document.
    """
    texts = Within("texts.parquet")
    """Parquet: every passage for training and evaluation.

    The columns are text, number of tokens, held_out, metadata (JSON), and document and passage as above.
    """
    tokenizer = Within("tokenizer")
    """The tokenizer in transformers format; absent if the activations do not come from text."""
    vocabulary = Within("vocabulary.parquet")
    """Parquet: the readable text of each token, for tokenizers without a tokenizer.json; absent in older runs."""
    rows = Within("rows.parquet")
    """Parquet: one row per indexed row of arrays, with its file, its number there and its columns of the table.

    Absent, as the next three files, where the activations do not come from arrays.
    """
    row_labels = Within("row_labels.parquet")
    """Parquet: labels and group of every row for training and evaluation; absent without a table of rows."""
    signal = Within("signal.safetensors")
    """Safetensors, memory-mapped: ``signal`` float32 [T, S], what is drawn of each indexed row of a series."""
    images = Within("images.safetensors")
    """Safetensors, memory-mapped: a thumbnail per indexed row: ``bytes`` uint8 and ``offsets`` int64 [T + 1]."""
    lens = Within("lens.safetensors")
    """Safetensors: the model's final norm and unembedding matrix. The logit lens needs no more of the model."""


@dataclass(frozen=True, slots=True)
class EnsembleFolder:
    """Paths of one ensemble."""

    path: Path

    @property
    def name(self) -> str:
        """The ensemble's name, which is the name of its folder."""
        return self.path.name

    manifest = Within("ensemble.json")
    """JSON: method, wiring, weights, member order."""

    def member(self, number: int) -> Path:
        """Folder of one member: an SAE in SAELens' format, or an ensemble like this one."""
        return self.path / f"member_{number:02d}"

    def inner(self, number: int) -> EnsembleFolder:
        """The paths of a member that is an ensemble."""
        return EnsembleFolder(self.member(number))

    curves = Within("training.parquet")
    """Parquet: the training curves (member, step, tokens, seconds, loss, explained_variance, l0, dead, …)."""
    checkpoint = Within("checkpoint")
    """Folder of the training checkpoint, deleted when training is finished."""
    index = Within("index/activations.safetensors")
    """Safetensors, memory-mapped: every activation by feature (pointers, positions, values)."""
    index_shards = Within("index/shards")
    """Folder for the parts of an index that several processes build, deleted when the parts are merged."""
    by_token = Within("index/by_token.safetensors")
    """Safetensors, memory-mapped: the features that tell each token best."""
    together = Within("index/together.safetensors")
    """Safetensors, memory-mapped: for each feature, the features that fire on the same tokens, and how often."""
    atoms = Within("atoms.parquet")
    """Parquet: one row per feature: density, peak, stability, family, map position, …"""
    matches = Within("matches.parquet")
    """Parquet: matches of features across members."""
    nearest = Within("nearest.safetensors")
    """Safetensors, memory-mapped: the nearest atoms of each feature within its own member, and their cosines."""
    match_summary = Within("matches.json")
    """JSON: the mean matched cosine of each pair of members, and of random dictionaries of the same sizes."""
    firing_matches = Within("firing_matches.parquet")
    """Parquet: matches of features across members by correlation of activations and by overlap of top contexts."""
    families = Within("families.parquet")
    """Parquet: one row per family of features of different members, for each way of matching."""
    family_summary = Within("families.json")
    """JSON: how alike each pair of members fires, how many families have each size, and the same by chance."""
    stage_energy = Within("energy.parquet")
    """Parquet: one row per feature of a boosted ensemble, with the residual energy that the feature removes."""
    stage_energy_summary = Within("energy.json")
    """JSON: the residual energy before and after each stage, and the number of tokens it was measured on."""
    map = Within("map.parquet")
    """Parquet: one row per feature: its place on the atom map (x, y) and its cluster."""

    def joint_map(self, other: str) -> Path:
        """Parquet: the atoms of this ensemble and of the ensemble named ``other`` on one map."""
        return self.path / "joint_maps" / f"{file_name(other)}.parquet"

    promoted = Within("promoted.parquet")
    """Parquet: tokens that each feature promotes and suppresses (logit lens)."""
    suggestions = Within("suggestions.parquet")
    """Parquet: one row per feature: a suggested label, and how well the label predicts where the feature fires."""


def file_name(name: str) -> str:
    """Change a name into one that every file system accepts."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
