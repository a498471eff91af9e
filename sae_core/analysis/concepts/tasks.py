"""Make labelled texts for concept detection: three sets from the embedded docstrings, or any texts with labels.

The embedded labels are no person's judgement: the library comes from the place where a passage was found, the kind from
its heading and layout. Training and test passages come from different modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.origins.text.documents import Document
from sae_core.analysis.concepts.probes import Problem
from sae_core.analysis.shared.names_in_tables import CONFOUNDED
from sae_core.foundation.errors import UserError

CONFOUNDED_SHARE = 0.2
"""Share of the pool for the confounded task; the other two tasks share the rest."""
TEST_SHARE = 0.3
MIN_TRAIN, MIN_TEST = 10, 5
"""Least number of positive texts; a concept with fewer is left out."""
MAX_LIBRARIES = 8
"""Number of libraries to distinguish: those with the most passages, so that each has enough."""
MAX_CLASSES = 100
KINDS = ("parameters", "prose")
"""The two kinds of passage in the confounded task."""

Passages = dict[tuple[str, str], list[str]]


@dataclass(frozen=True, slots=True)
class Task:
    """Texts with labels, in training and test.

    Attributes:
        name: Short name.
        description: What the labels are and where they come from.
        train_texts: Texts to select features and fit probes on.
        train_labels: The classes of the training texts.
        test_texts: Texts to measure on; none is a training text.
        test_labels: The classes of the test texts.
        test_units: The module or document of each test text, since texts of one unit are not independent. By default
            each text is its own unit.
    """

    name: str
    description: str
    train_texts: list[str]
    train_labels: list[str]
    test_texts: list[str]
    test_labels: list[str]
    test_units: list[str] | None = None

    @property
    def classes(self) -> list[str]:
        """The classes, sorted."""
        return sorted({*self.train_labels, *self.test_labels})


def docstring_tasks(documents: Sequence[Document], *, train_texts: int, test_texts: int, pool_texts: int) -> list[Task]:
    """Make the three embedded tasks: library, kind, and library confounded with kind.

    Library and kind use the same texts, equally many from each library, and earlier documents come first. A task with
    too few documents is left out.

    Args:
        documents: Passages with the metadata package, module and kind; passages that the SAEs never saw come first.
        train_texts: Training texts that a concept may use, half of them positive.
        test_texts: Test texts that a concept may use, half of them positive.
        pool_texts: Largest number of different texts in all tasks together.
    """
    train, test = passages_by_cell(documents)
    tasks = []
    shared = round(pool_texts * (1 - CONFOUNDED_SHARE))
    drawn_train, drawn_test = _draw_libraries(train, test, shared, limits=(train_texts // 2, test_texts // 2))
    for name, place, description in (
        ("library", 0, "The installed Python package whose source a docstring passage was found in."),
        ("kind", 1, "Whether a docstring passage is a list of parameters, an example session or prose (by heading)."),
    ):
        task = Task(name, description, *_labelled(drawn_train, place), *_labelled(drawn_test, place))
        tasks += [task] if usable_concepts(task) else []
    confounded = _confounded(train, test, pool_texts - shared, limits=(train_texts // 2, test_texts // 4))
    tasks += [confounded] if confounded and usable_concepts(confounded) else []
    modules = {document.text: " ".join(_module(document)) for document in _distinct(documents)}
    return [replace(task, test_units=[modules[text] for text in task.test_texts]) for task in tasks]


def passages_by_cell(documents: Sequence[Document]) -> tuple[Passages, Passages]:
    """Divide passages into (training, test), each by (package, kind). All passages of a module are on one side."""
    train: Passages = {}
    test: Passages = {}
    for document in _distinct(documents):
        metadata = document.metadata
        key = hashlib.sha1(" ".join(_module(document)).encode()).digest()
        side = test if int.from_bytes(key[:4], "big") < TEST_SHARE * 2**32 else train
        if document.text.strip():
            side.setdefault((metadata["package"], metadata["kind"]), []).append(document.text)
    return train, test


def _module(document: Document) -> tuple[str, str]:
    return document.metadata["package"], document.metadata["module"]


def _distinct(documents: Sequence[Document]) -> list[Document]:
    """Keep the first document with each text; a text on both sides would give its label away."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.text, document)
    return list(first.values())


def _draw_libraries(
    train: Passages, test: Passages, pool: int, *, limits: tuple[int, int]
) -> tuple[Passages, Passages]:
    """Draw as many passages of each library as the pool and the limits allow, with each kind in its proportion."""
    sizes = {library: (_size(train, library), _size(test, library)) for library, _ in train}
    enough = [library for library, (here, there) in sizes.items() if here >= MIN_TRAIN and there >= MIN_TEST]
    libraries = sorted(sorted(enough, key=lambda library: (-sum(sizes[library]), library))[:MAX_LIBRARIES])
    if not libraries:
        return {}, {}
    shares = (round(pool * (1 - TEST_SHARE) / len(libraries)), round(pool * TEST_SHARE / len(libraries)))
    drawn = []
    for side, share, limit in zip((train, test), shares, limits, strict=True):
        chosen: Passages = {}
        for library in libraries:
            total, wanted = _size(side, library), min(share, limit)
            for (name, kind), texts in side.items():
                if name == library:
                    chosen[name, kind] = texts[: round(len(texts) * min(1.0, wanted / total))]
        drawn.append(chosen)
    return drawn[0], drawn[1]


def _size(side: Passages, library: str) -> int:
    return sum(len(texts) for (name, _), texts in side.items() if name == library)


def _labelled(side: Passages, place: int) -> tuple[list[str], list[str]]:
    """All texts, and one part of the key as labels: 0 for the library, 1 for the kind."""
    texts = [text for passages in side.values() for text in passages]
    return texts, [key[place] for key, passages in side.items() for _ in passages]


def _confounded(train: Passages, test: Passages, pool: int, *, limits: tuple[int, int]) -> Task | None:
    """Confound two libraries: in training one has only parameter lists, the other only prose; tests have all four."""
    listed, told = KINDS
    most_train = min(limits[0], round(pool * 0.6 / 2))
    most_test = min(limits[1], round(pool * 0.4 / 4))

    def available(pair: tuple[str, str]) -> tuple[int, int]:
        one, other = pair
        here = min(len(train.get((one, listed), ())), len(train.get((other, told), ())))
        there = min(len(test.get((library, kind), ())) for library in pair for kind in KINDS)
        return min(here, most_train), min(there, most_test)

    pairs = list(permutations(sorted({library for library, _ in train}), 2))
    if not pairs or min(most_train, most_test) == 0:
        return None
    # Choose the pair with the fullest scarcest cell; of equal pairs the first by alphabet.
    best = max(pairs, key=lambda pair: min(available(pair)[0] / most_train, available(pair)[1] / most_test))
    count_train, count_test = available(best)
    one, other = best
    description = (
        f"{one} or {other}: in training all {one} passages are parameter lists and all {other} passages prose; in "
        "testing both libraries give as many of either, so a detector that leans on the kind is right half the time."
    )
    test_texts = [text for library in best for kind in KINDS for text in test.get((library, kind), [])[:count_test]]
    return Task(
        CONFOUNDED,
        description,
        train.get((one, listed), [])[:count_train] + train.get((other, told), [])[:count_train],
        [one] * count_train + [other] * count_train,
        test_texts,
        [library for library in best for _ in range(len(KINDS) * count_test)],
    )


def labelled_task(name: str, texts: Sequence[str], labels: Sequence[str], *, seed: int = 0) -> Task:
    """Make a task from texts and labels: drop repeated texts, then keep one text in five of each class for testing.

    Raises:
        UserError: If there are fewer than two classes with enough texts, or more than `MAX_CLASSES` classes.
    """
    first = {text: label for text, label in zip(reversed(texts), reversed(labels), strict=True) if text.strip()}
    classes = sorted(set(first.values()))
    if len(classes) > MAX_CLASSES:
        raise UserError(
            f"Task {name} has {len(classes)} different labels; give a label column with at most {MAX_CLASSES} of them."
        )
    chance = np.random.default_rng(seed)
    sides: dict[bool, tuple[list[str], list[str]]] = {False: ([], []), True: ([], [])}
    for label in classes:
        mine = sorted(text for text, other in first.items() if other == label)
        order = chance.permutation(len(mine))
        for position, place in enumerate(order):
            side_texts, side_labels = sides[position < len(mine) // 5]
            side_texts.append(mine[place])
            side_labels.append(label)
    task = Task(name, f"Labels from {name}.", *sides[False], *sides[True])
    if not usable_concepts(task):
        raise UserError(
            f"Task {name} has no two labels with at least {MIN_TRAIN + MIN_TEST} or so different texts each; "
            "give more labelled texts."
        )
    return task


def usable_concepts(task: Task) -> list[str]:
    """The classes to detect: those with enough positive and negative texts on both sides.

    If there are two classes, only the second is listed, since detecting the first is the same problem.
    """
    usable = []
    for concept in task.classes:
        positive = (task.train_labels.count(concept), task.test_labels.count(concept))
        negative = (len(task.train_labels) - positive[0], len(task.test_labels) - positive[1])
        if min(positive[0], negative[0]) >= MIN_TRAIN and min(positive[1], negative[1]) >= MIN_TEST:
            usable.append(concept)
    return usable[1:] if len(task.classes) == 2 else usable


def build_problems(
    tasks: Sequence[Task], rows: Mapping[str, int], *, train_texts: int, test_texts: int, seed: int
) -> list[Problem]:
    """Make a balanced one-vs-rest problem for every concept of every task.

    Args:
        tasks: The tasks.
        rows: The row of each text in the pooled features.
        train_texts: Largest number of training texts; half are positive, half are drawn from the other classes.
        test_texts: Largest number of test texts.
        seed: Seed of the draws.
    """
    problems = []
    for task in tasks:
        named = zip(task.test_texts, task.test_units or (), strict=False)
        units_of = {rows[text]: _number(unit) for text, unit in named}
        for number, concept in enumerate(usable_concepts(task)):
            chance = np.random.default_rng([seed, number, *task.name.encode()])
            train = _balanced(task.train_texts, task.train_labels, concept, rows, train_texts // 2, chance)
            test = _balanced(task.test_texts, task.test_labels, concept, rows, test_texts // 2, chance)
            units = None if task.test_units is None else np.array([units_of[row] for row in test[0].tolist()])
            problems.append(Problem(task.name, concept, *train, *test, units))
    return problems


def _number(unit: str) -> int:
    """Hash a name to a positive number, which is the same in every task."""
    return int.from_bytes(hashlib.sha1(unit.encode("utf-8", "surrogatepass")).digest()[:8], "big") >> 1


def _balanced(
    texts: Sequence[str],
    labels: Sequence[str],
    concept: str,
    rows: Mapping[str, int],
    limit: int,
    chance: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw (rows, whether positive): equally many positive and negative texts, at most ``limit`` of each."""
    is_positive = np.array([label == concept for label in labels])
    places = np.array([rows[text] for text in texts], dtype=np.int64)
    count = max(1, min(limit, int(is_positive.sum()), int((~is_positive).sum())))
    chosen = [chance.permutation(places[side])[:count] for side in (is_positive, ~is_positive)]
    return np.concatenate(chosen), np.repeat([True, False], count)
