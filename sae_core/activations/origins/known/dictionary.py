"""Activations from a known dictionary, on which methods can be ranked by what they find of it.

a = bias + Σ_i c_i·d_i + noise, with unit atoms d_i. Firing probabilities follow Zipf's law. An activation has a topic,
which makes the features of that topic likelier (correlation); some features fire only where their parent fires
(hierarchy), and of the children of one parent at most one fires at a time. Every probability is exact and known.

Rows come in blocks of `BLOCK_ROWS`, each of which is made from the seed and its number alone: any row can be had at any
time, and a seed gives the same rows in whatever batches they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import brentq
from torch import Tensor

from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_tensors, write_tensors
from sae_core.foundation.settings.run_settings import TruthSettings

Part = Literal["train", "evaluation"]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK_ROWS = 2048
"""Rows that are made together."""
SIBLINGS = 4
"""Children that a feature has at most."""
CHILDREN_SHARE = 0.8
"""Share of a parent's firings in which a child fires with it, at most; so every parent also fires alone."""
_SURE = 0.95
"""Probability of a feature within its topic, at most."""
_STREAMS: dict[Part, int] = {"train": 1, "evaluation": 2}
_TENSORS = ("atoms_FD", "probability_F", "parent_F", "topic_F", "pull_F", "magnitude_F", "bias_D", "scalars")


@dataclass(frozen=True)
class KnownDictionary:
    """The truth: F features over D dimensions, most frequent first.

    Attributes:
        atoms_FD: Unit atoms, float32.
        probability_F: Share of activations on which each feature fires; exact.
        parent_F: The feature without which it never fires; −1 for the roots of the hierarchy.
        topic_F: Its topic, which is that of its root.
        pull_F: How strongly the topic pulls, in [0, 1]: with T topics, a root of pull c fires c·(T − 1) + 1 times as
            often as on average within its topic and 1 − c times as often elsewhere. Children follow their parents.
        magnitude_F: Mean coefficient where it fires.
        bias_D: What is added to every activation, float32.
        topics: Number of topics, T, all equally likely.
        spread: Standard deviation of a feature's coefficients where it fires, over their mean.
        noise: Standard deviation of the noise in every dimension.
    """

    atoms_FD: Tensor
    probability_F: Floats
    parent_F: Integers
    topic_F: Integers
    pull_F: Floats
    magnitude_F: Floats
    bias_D: Tensor
    topics: int
    spread: float
    noise: float

    @property
    def features(self) -> int:
        """Number of features, F."""
        return len(self.probability_F)

    @property
    def d_in(self) -> int:
        """Dimension of the activations, D."""
        return self.atoms_FD.shape[1]

    @property
    def energy(self) -> float:
        """Σ_i p_i·E[c_i²]: the mean square of the activations without bias and noise, if atoms were orthogonal."""
        squares_F = self.magnitude_F**2 * (1 + self.spread**2)
        return float(self.probability_F @ squares_F)

    @property
    def mean_D(self) -> Tensor:
        """E a, shape [D]; exact, float64."""
        weights_F = torch.from_numpy(self.probability_F * self.magnitude_F)
        return self.bias_D.double() + weights_F @ self.atoms_FD.double()

    @cached_property
    def children_FS(self) -> Integers:
        """The children of each feature [F, SIBLINGS], −1 where there are fewer."""
        children_FS = np.full((self.features, SIBLINGS), -1)
        places_F = np.zeros(self.features, dtype=np.int64)
        for child in np.flatnonzero(self.parent_F >= 0):
            parent = self.parent_F[child]
            children_FS[parent, places_F[parent]] = child
            places_F[parent] += 1
        return children_FS

    @cached_property
    def odds_FS(self) -> Floats:
        """Where a uniform number below odds[f, s] (and not below odds[f, s − 1]) means that child s fires with f."""
        shares_FS = np.where(self.children_FS >= 0, self.probability_F[self.children_FS], 0.0)
        return np.cumsum(shares_FS / self.probability_F[:, None], axis=1)


def make_dictionary(settings: TruthSettings, seed: int) -> KnownDictionary:
    """Draw a dictionary.

    Raises:
        UserError: If the settings ask for more active features than their probabilities can give.
    """
    chance = np.random.default_rng([seed, 0])
    features, d_in = settings.features, settings.dimension
    atoms_FD = chance.standard_normal((features, d_in))
    atoms_FD /= np.linalg.norm(atoms_FD, axis=1, keepdims=True)
    probability_F = zipf_probabilities(features, settings.zipf, active=settings.active, most=settings.most)
    parent_F = _draw_parents(probability_F, settings.children, chance)
    topic_F = chance.integers(settings.topics, size=features)
    for child in np.flatnonzero(parent_F >= 0):  # a parent comes before its children
        topic_F[child] = topic_F[parent_F[child]]
    magnitude_F = np.exp(settings.magnitudes * chance.standard_normal(features) - settings.magnitudes**2 / 2)
    bias_D = chance.standard_normal(d_in)
    pull_F = np.zeros(features)
    if settings.topics > 1:
        # No probability may exceed 1, so frequent features are pulled less.
        pull_F = np.clip((_SURE / probability_F - 1) / (settings.topics - 1), 0.0, settings.correlation)
    energy = float(probability_F @ magnitude_F**2) * (1 + settings.spread**2)
    bias_D *= settings.offset * np.sqrt(energy) / np.linalg.norm(bias_D)
    return KnownDictionary(
        atoms_FD=torch.from_numpy(atoms_FD).float(),
        probability_F=probability_F,
        parent_F=parent_F,
        topic_F=topic_F,
        pull_F=pull_F,
        magnitude_F=magnitude_F,
        bias_D=torch.from_numpy(bias_D).float(),
        topics=settings.topics,
        spread=settings.spread,
        noise=float(np.sqrt(settings.noise * energy / d_in)),
    )


def zipf_probabilities(features: int, exponent: float, *, active: float, most: float) -> Floats:
    """min(most, C·rank^−exponent), with C such that the sum, the mean number of active features, is ``active``.

    Raises:
        UserError: If that many cannot be active.
    """
    if active >= features * most:
        raise UserError(
            f"truth.active is {active:g}, but {features} features of probability {most:g} at most are never that many "
            "at a time; give fewer active features or more features."
        )
    shape_F = np.arange(1.0, features + 1) ** -exponent

    def missing(log_scale: float) -> float:
        return float(np.minimum(most, np.exp(log_scale) * shape_F).sum()) - active

    # At the lower end even the sum without the limit is too small; at the upper end all are at the limit.
    ends = np.log(active / shape_F.sum()) - 1, np.log(most / shape_F[-1])
    probabilities: Floats = np.minimum(most, np.exp(brentq(missing, *ends, xtol=1e-14)) * shape_F)
    return probabilities


def _draw_parents(probability_F: Floats, share: float, chance: np.random.Generator) -> Integers:
    """A parent for that share of the features, as far as there is one that fires often enough for all its children."""
    features = len(probability_F)
    parent_F = np.full(features, -1)
    room_F, children_F = CHILDREN_SHARE * probability_F, np.zeros(features, dtype=np.int64)
    for child in np.flatnonzero(chance.random(features) < share):
        fitting = np.flatnonzero((room_F[:child] >= probability_F[child]) & (children_F[:child] < SIBLINGS))
        if len(fitting):
            parent = fitting[chance.integers(len(fitting))]
            parent_F[child] = parent
            room_F[parent] -= probability_F[child]
            children_F[parent] += 1
    return parent_F


def save_dictionary(dictionary: KnownDictionary, path: Path) -> None:
    """Write a dictionary as safetensors."""
    scalars = torch.tensor([dictionary.topics, dictionary.spread, dictionary.noise], dtype=torch.float64)
    arrays = {name: getattr(dictionary, name) for name in _TENSORS if name != "scalars"}
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    write_tensors(path, {**tensors, "scalars": scalars})


def load_dictionary(path: Path) -> KnownDictionary:
    """Read a dictionary that `save_dictionary` wrote.

    Raises:
        UserError: If the file is missing, damaged or holds something else.
    """
    tensors = read_tensors(path)
    if set(tensors) != set(_TENSORS):
        raise UserError(f"{path} holds no known dictionary; delete it and run the command again.")
    topics, spread, noise = tensors.pop("scalars").tolist()
    atoms_FD, bias_D = tensors.pop("atoms_FD"), tensors.pop("bias_D")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return KnownDictionary(atoms_FD=atoms_FD, bias_D=bias_D, topics=int(topics), spread=spread, noise=noise, **arrays)


@dataclass(frozen=True, slots=True)
class KnownBatch:
    """Some activations and what they are made of.

    Attributes:
        acts_BD: The activations, float32.
        coefs_BF: The true coefficients, sparse, float32; each stored one is > 0.
    """

    acts_BD: Tensor
    coefs_BF: sparse.csr_array


class KnownActivations:
    """The activations of a dictionary, without end.

    Args:
        dictionary: The dictionary.
        seed: Seed of the rows.
        part: Rows for training and rows for evaluation have nothing in common.
    """

    def __init__(self, dictionary: KnownDictionary, *, seed: int, part: Part) -> None:
        self.dictionary = dictionary
        self._seed, self._stream = seed, _STREAMS[part]
        self._roots = np.flatnonzero(dictionary.parent_F < 0)
        probability_R, pull_R = dictionary.probability_F[self._roots], dictionary.pull_F[self._roots]
        elsewhere_R = probability_R * (1 - pull_R)
        within_R = probability_R * (1 + pull_R * (dictionary.topics - 1))
        # A cell in which a Poisson process has at least one event has fired: 1 − exp(−rate) is its probability.
        # Processes add up, so what a topic adds is drawn by itself, and the work grows with what fires.
        self._rate_R = -np.log1p(-elsewhere_R)
        self._topic_rate_R = -np.log1p(-within_R) - self._rate_R
        self._atoms_FD = dictionary.atoms_FD.numpy()
        self._kept: tuple[int, KnownBatch] | None = None

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop``, float32 [stop − start, D]."""
        return self.batch(start, stop).acts_BD

    def batch(self, start: int, stop: int) -> KnownBatch:
        """Rows ``start`` to ``stop`` with their true coefficients."""
        acts, coefs = [], []
        for number in range(start // BLOCK_ROWS, -(-stop // BLOCK_ROWS)):
            block, first = self._block(number), number * BLOCK_ROWS
            rows = slice(max(start - first, 0), min(stop - first, BLOCK_ROWS))
            acts.append(block.acts_BD[rows])
            coefs.append(block.coefs_BF[rows])
        if not acts:
            dictionary = self.dictionary
            empty = sparse.csr_array((0, dictionary.features), dtype=np.float32)
            return KnownBatch(torch.empty(0, dictionary.d_in), empty)
        return KnownBatch(torch.cat(acts), sparse.csr_array(sparse.vstack(coefs, format="csr")))

    def _block(self, number: int) -> KnownBatch:
        """A block; the last one is kept, since batches that end within it come one after the other."""
        if self._kept is None or self._kept[0] != number:
            self._kept = number, self._make(np.random.default_rng([self._seed, self._stream, number]))
        return self._kept[1]

    def _make(self, chance: np.random.Generator) -> KnownBatch:
        dictionary = self.dictionary
        features = dictionary.features
        places_E = self._fire_roots(chance)
        places_E = np.sort(np.concatenate([places_E, *self._fire_children(places_E, chance)]))
        rows_E, features_E = np.divmod(places_E, features)
        values_E = dictionary.magnitude_F[features_E]
        if dictionary.spread:
            # Gamma: positive, and of any spread. Its mean is 1.
            values_E = values_E * chance.gamma(dictionary.spread**-2, dictionary.spread**2, size=len(values_E))
        starts_B = np.searchsorted(rows_E, np.arange(BLOCK_ROWS + 1))
        shape = (BLOCK_ROWS, features)
        coefs_BF = sparse.csr_array((values_E.astype(np.float32), features_E, starts_B), shape=shape)
        acts_BD = np.asarray(coefs_BF @ self._atoms_FD) + dictionary.bias_D.numpy()
        acts_BD += np.float32(dictionary.noise) * chance.standard_normal(acts_BD.shape, dtype=np.float32)
        return KnownBatch(torch.from_numpy(acts_BD), coefs_BF)

    def _fire_roots(self, chance: np.random.Generator) -> Integers:
        """Places row·F + feature, ascending, where features without a parent fire."""
        dictionary = self.dictionary
        topic_B = chance.integers(dictionary.topics, size=BLOCK_ROWS)
        by_topic_B, sizes_T = np.argsort(topic_B, kind="stable"), np.bincount(topic_B, minlength=dictionary.topics)
        anywhere_E = np.repeat(self._roots, chance.poisson(BLOCK_ROWS * self._rate_R))
        rows_E = chance.integers(BLOCK_ROWS, size=len(anywhere_E))
        topic_R = dictionary.topic_F[self._roots]
        within_E = np.repeat(self._roots, chance.poisson(sizes_T[topic_R] * self._topic_rate_R))
        topic_E = dictionary.topic_F[within_E]
        firsts_T = np.cumsum(sizes_T) - sizes_T
        topic_rows_E = by_topic_B[firsts_T[topic_E] + chance.integers(sizes_T[topic_E])]
        rows, features = np.concatenate([rows_E, topic_rows_E]), np.concatenate([anywhere_E, within_E])
        return np.unique(rows * dictionary.features + features)

    def _fire_children(self, places_E: Integers, chance: np.random.Generator) -> list[Integers]:
        """Places where children fire, level by level: with each firing of a parent one of its children, or none."""
        dictionary = self.dictionary
        found: list[Integers] = []
        while len(places_E):
            rows_E, parents_E = np.divmod(places_E, dictionary.features)
            slots_E = (chance.random(len(parents_E))[:, None] >= dictionary.odds_FS[parents_E]).sum(axis=1)
            fires_E = slots_E < SIBLINGS
            children_E = dictionary.children_FS[parents_E[fires_E], slots_E[fires_E]]
            places_E = rows_E[fires_E] * dictionary.features + children_E
            found.append(places_E)
        return found
