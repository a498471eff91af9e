"""Names of the files in a run's folders of its corpus and of each ensemble."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
"""The files of a member, which are SAELens' own."""


@dataclass(frozen=True, slots=True)
class CorpusFolder:
    """Paths of the indexed corpus. Special tokens are not stored, so a position is a row of the activations."""

    path: Path

    @property
    def tokens(self) -> Path:
        """Safetensors: ``tokens`` int32 [T]; ``offsets`` int64 [passages + 1], where each passage starts."""
        return self.path / "tokens.safetensors"

    @property
    def documents(self) -> Path:
        """Parquet: one row a passage: its document's metadata (``source`` and whatever the text source gives), and its
        ``document`` and ``passage``, int64 counted from 1. Older runs lack these two: each passage is a document.
        """
        return self.path / "documents.parquet"

    @property
    def texts(self) -> Path:
        """Parquet: every passage for training and evaluation: text, number of tokens, held_out, metadata (JSON), and
        document and passage as above.
        """
        return self.path / "texts.parquet"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer in transformers format; absent for activations that do not come from text."""
        return self.path / "tokenizer"

    @property
    def vocabulary(self) -> Path:
        """Parquet: what each token reads like, where the tokenizer has no tokenizer.json; absent in older runs."""
        return self.path / "vocabulary.parquet"

    @property
    def lens(self) -> Path:
        """Safetensors: the model's path to its logits as a norm and a matrix, for the logit lens without the model."""
        return self.path / "lens.safetensors"


@dataclass(frozen=True, slots=True)
class EnsembleFolder:
    """Paths of one ensemble."""

    path: Path

    @property
    def name(self) -> str:
        """The ensemble's name: the folder's."""
        return self.path.name

    @property
    def manifest(self) -> Path:
        """JSON: method, wiring, weights, member order."""
        return self.path / "ensemble.json"

    def member(self, number: int) -> Path:
        """Folder of one member in SAELens' format."""
        return self.path / f"member_{number:02d}"

    @property
    def curves(self) -> Path:
        """Parquet: the training curves (member, step, tokens, seconds, loss, explained_variance, l0, dead, …)."""
        return self.path / "training.parquet"

    @property
    def checkpoint(self) -> Path:
        """Folder of the training checkpoint; gone when training is finished."""
        return self.path / "checkpoint"

    @property
    def index(self) -> Path:
        """Safetensors, memory-mapped: every activation by feature (pointers, positions, values)."""
        return self.path / "index" / "activations.safetensors"

    @property
    def index_shards(self) -> Path:
        """Folder of the parts of an index that several processes are building; gone when they are merged."""
        return self.path / "index" / "shards"

    @property
    def by_token(self) -> Path:
        """Safetensors, memory-mapped: the features that tell each token best."""
        return self.path / "index" / "by_token.safetensors"

    @property
    def together(self) -> Path:
        """Safetensors, memory-mapped: the features that fire on the same tokens as each one, and how often."""
        return self.path / "index" / "together.safetensors"

    @property
    def atoms(self) -> Path:
        """Parquet: one row a feature: density, peak, stability, family, map position, …"""
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
        """JSON: mean matched cosines of each pair of members, and of random dictionaries of the same sizes."""
        return self.path / "matches.json"

    @property
    def firing_matches(self) -> Path:
        """Parquet: matches of features across members by correlation of activations and by overlap of top contexts."""
        return self.path / "firing_matches.parquet"

    @property
    def families(self) -> Path:
        """Parquet: one row a family of features of different members, for each way of matching them."""
        return self.path / "families.parquet"

    @property
    def family_summary(self) -> Path:
        """JSON: figures of each pair of members by what features do, families of each size, and what chance gives."""
        return self.path / "families.json"

    @property
    def stage_energy(self) -> Path:
        """Parquet: one row a feature of a boosted ensemble, the residual energy that it removes."""
        return self.path / "energy.parquet"

    @property
    def stage_energy_summary(self) -> Path:
        """JSON: the residual energy before and after each stage, and on how many tokens it is measured."""
        return self.path / "energy.json"

    @property
    def map(self) -> Path:
        """Parquet: one row a feature, its place on the atom map (x, y) and its cluster there."""
        return self.path / "map.parquet"

    def joint_map(self, other: str) -> Path:
        """Parquet: the atoms of this and of another ensemble on one map; ``other`` names that one."""
        return self.path / "joint_maps" / f"{file_name(other)}.parquet"

    @property
    def promoted(self) -> Path:
        """Parquet: tokens that each feature promotes and suppresses (logit lens)."""
        return self.path / "promoted.parquet"

    @property
    def suggestions(self) -> Path:
        """Parquet: one row a feature, a label suggested for it and how well that foretells where it fires."""
        return self.path / "suggestions.parquet"


def file_name(name: str) -> str:
    """A name as one that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"
