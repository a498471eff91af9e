"""Name the files in a run's corpus folder and in its ensemble folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
"""The files of a member, named as SAELens names them."""


@dataclass(frozen=True, slots=True)
class CorpusFolder:
    """Paths of the indexed corpus. Special tokens are not stored, so token t belongs to row t of the activations."""

    path: Path

    @property
    def tokens(self) -> Path:
        """Safetensors: ``tokens`` int32 [T]; ``offsets`` int64 [passages + 1], where each passage starts.

        Of arrays also ``runs`` int64, where what may be shown together starts, and ``alike`` int32 [T], which is equal
        for rows that look the same.
        """
        return self.path / "tokens.safetensors"

    @property
    def documents(self) -> Path:
        """Parquet: one row per passage, with the metadata of its document (``source`` and what the text source gives).

        The columns ``document`` and ``passage`` are int64 and count from 1. Runs of older versions lack both columns;
        there, each passage is a document.
        """
        return self.path / "documents.parquet"

    @property
    def texts(self) -> Path:
        """Parquet: every passage for training and evaluation.

        The columns are text, number of tokens, held_out, metadata (JSON), and document and passage as above.
        """
        return self.path / "texts.parquet"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer in transformers format; absent if the activations do not come from text."""
        return self.path / "tokenizer"

    @property
    def vocabulary(self) -> Path:
        """Parquet: the readable text of each token, for tokenizers without a tokenizer.json; absent in older runs."""
        return self.path / "vocabulary.parquet"

    @property
    def rows(self) -> Path:
        """Parquet: one row per indexed row of arrays, with its file, its number there and its columns of the table.

        Absent, as the next three files, where the activations do not come from arrays.
        """
        return self.path / "rows.parquet"

    @property
    def row_labels(self) -> Path:
        """Parquet: labels and group of every row for training and evaluation; absent without a table of rows."""
        return self.path / "row_labels.parquet"

    @property
    def signal(self) -> Path:
        """Safetensors, memory-mapped: ``signal`` float32 [T, S], what is drawn of each indexed row of a series."""
        return self.path / "signal.safetensors"

    @property
    def images(self) -> Path:
        """Safetensors, memory-mapped: a thumbnail per indexed row: ``bytes`` uint8 and ``offsets`` int64 [T + 1]."""
        return self.path / "images.safetensors"

    @property
    def lens(self) -> Path:
        """Safetensors: the model's final norm and unembedding matrix. The logit lens needs no more of the model."""
        return self.path / "lens.safetensors"


@dataclass(frozen=True, slots=True)
class EnsembleFolder:
    """Paths of one ensemble."""

    path: Path

    @property
    def name(self) -> str:
        """The ensemble's name, which is the name of its folder."""
        return self.path.name

    @property
    def manifest(self) -> Path:
        """JSON: method, wiring, weights, member order."""
        return self.path / "ensemble.json"

    def member(self, number: int) -> Path:
        """Folder of one member: an SAE in SAELens' format, or an ensemble like this one."""
        return self.path / f"member_{number:02d}"

    def inner(self, number: int) -> EnsembleFolder:
        """The paths of a member that is an ensemble."""
        return EnsembleFolder(self.member(number))

    @property
    def curves(self) -> Path:
        """Parquet: the training curves (member, step, tokens, seconds, loss, explained_variance, l0, dead, …)."""
        return self.path / "training.parquet"

    @property
    def checkpoint(self) -> Path:
        """Folder of the training checkpoint, deleted when training is finished."""
        return self.path / "checkpoint"

    @property
    def index(self) -> Path:
        """Safetensors, memory-mapped: every activation by feature (pointers, positions, values)."""
        return self.path / "index" / "activations.safetensors"

    @property
    def index_shards(self) -> Path:
        """Folder for the parts of an index that several processes build, deleted when the parts are merged."""
        return self.path / "index" / "shards"

    @property
    def by_token(self) -> Path:
        """Safetensors, memory-mapped: the features that tell each token best."""
        return self.path / "index" / "by_token.safetensors"

    @property
    def together(self) -> Path:
        """Safetensors, memory-mapped: for each feature, the features that fire on the same tokens, and how often."""
        return self.path / "index" / "together.safetensors"

    @property
    def atoms(self) -> Path:
        """Parquet: one row per feature: density, peak, stability, family, map position, …"""
        return self.path / "atoms.parquet"

    @property
    def matches(self) -> Path:
        """Parquet: matches of features across members."""
        return self.path / "matches.parquet"

    @property
    def nearest(self) -> Path:
        """Safetensors, memory-mapped: the nearest atoms of each feature within its own member, and their cosines."""
        return self.path / "nearest.safetensors"

    @property
    def match_summary(self) -> Path:
        """JSON: the mean matched cosine of each pair of members, and of random dictionaries of the same sizes."""
        return self.path / "matches.json"

    @property
    def firing_matches(self) -> Path:
        """Parquet: matches of features across members by correlation of activations and by overlap of top contexts."""
        return self.path / "firing_matches.parquet"

    @property
    def families(self) -> Path:
        """Parquet: one row per family of features of different members, for each way of matching."""
        return self.path / "families.parquet"

    @property
    def family_summary(self) -> Path:
        """JSON: how alike each pair of members fires, how many families have each size, and the same by chance."""
        return self.path / "families.json"

    @property
    def stage_energy(self) -> Path:
        """Parquet: one row per feature of a boosted ensemble, with the residual energy that the feature removes."""
        return self.path / "energy.parquet"

    @property
    def stage_energy_summary(self) -> Path:
        """JSON: the residual energy before and after each stage, and the number of tokens it was measured on."""
        return self.path / "energy.json"

    @property
    def map(self) -> Path:
        """Parquet: one row per feature: its place on the atom map (x, y) and its cluster."""
        return self.path / "map.parquet"

    def joint_map(self, other: str) -> Path:
        """Parquet: the atoms of this ensemble and of the ensemble named ``other`` on one map."""
        return self.path / "joint_maps" / f"{file_name(other)}.parquet"

    @property
    def promoted(self) -> Path:
        """Parquet: tokens that each feature promotes and suppresses (logit lens)."""
        return self.path / "promoted.parquet"

    @property
    def suggestions(self) -> Path:
        """Parquet: one row per feature: a suggested label, and how well the label predicts where the feature fires."""
        return self.path / "suggestions.parquet"


def file_name(name: str) -> str:
    """Change a name into one that every file system accepts."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
