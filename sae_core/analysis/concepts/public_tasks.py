"""Read the public data sets of sparse probing: 35 concepts in eight tasks, from the hub or from copies in a folder.

Source: Karvonen et al. 2025, *SAEBench*, which fixes the classes, the languages, the 150 characters of code that are
skipped (Gurnee et al. 2023: headers with licences) and the balance of biographies by gender and of reviews by rating.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sae_core.activations.origins.text import hub
from sae_core.analysis.concepts.tasks import Task, usable_concepts
from sae_core.foundation.errors import UserError
from sae_core.foundation.files import row_files as tables
from sae_core.foundation.files.text_streams import format_of
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.run_settings import PUBLIC_TEXTS

TEST_SHARE = 0.25
"""Number of test texts per training text: 1000 for 4000."""
POOL = 3
"""How many times the wanted texts to gather before drawing. Data sets may be sorted, so neighbours may be alike."""
MAX_ROWS = 3_000_000
"""Largest number of rows to read of a split."""
SKIPPED_CHARS, CODE_CHARS = 150, 384
"""Number of characters to skip at the start of a file, and the least number to keep: some 128 tokens."""

Cell = tuple[str, str, str]
"""(task, concept, group): texts of a concept are balanced over its groups."""
Cells = dict[Cell, list[str]]
Row = Mapping[str, Any]
Example = tuple[Cell, str]
"""One example that a row gives for a task: its cell and its text."""


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A data set and its tasks.

    Attributes:
        source: Its hub id.
        tasks: For each task its concepts, in order.
        groups: For each task the groups over which each concept's texts are balanced.
        columns: The required columns.
        examples: Returns the examples of a row, for the subset's concept or for all concepts.
        subsets: The configurations to read, each with its concept if it has only one.
        has_test: Whether the data set has a test split; otherwise the training split is divided.
        files: The Parquet files, if the data set can be loaded in no other form.
        about: What the labels mean.
    """

    source: str
    tasks: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]
    columns: tuple[str, ...]
    examples: Callable[[Row, str | None], Iterable[Example]]
    about: str
    subsets: Mapping[str | None, str | None] = field(default_factory=lambda: {None: None})
    has_test: bool = True
    files: str | None = None

    @property
    def cells(self) -> list[Cell]:
        """All cells."""
        return [
            (task, concept, group)
            for task, concepts in self.tasks.items()
            for concept, group in product(concepts, self.groups[task])
        ]


_PROFESSIONS = {
    "bias_in_bios 1": {0: "accountant", 1: "architect", 2: "attorney", 6: "dentist", 9: "filmmaker"},
    "bias_in_bios 2": {11: "journalist", 13: "nurse", 14: "painter", 18: "photographer", 19: "physician"},
    "bias_in_bios 3": {20: "poet", 21: "professor", 22: "psychologist", 25: "surgeon", 26: "teacher"},
}
_CATEGORIES = {1: "toys", 2: "cell phones", 3: "industrial", 5: "musical instruments", 6: "electronics"}
_RATINGS = {1: "1 star", 5: "5 stars"}
_NEWS = ("world", "sports", "business", "science and technology")
_PAIRS: dict[str | None, str | None] = {"en-fr": "en", "fr-it": "fr", "de-en": "de", "es-fr": "es", "nl-pt": "nl"}
_EXTENSIONS = {
    **{".c": "C", ".h": "C", ".py": "Python", ".html": "HTML", ".java": "Java"},
    **dict.fromkeys((".php", ".php3", ".php4", ".php5", ".phps", ".phpt"), "PHP"),
}


def _biographies(row: Row, _subset: str | None) -> Iterator[Example]:
    number = int(row["profession"])
    for task, professions in _PROFESSIONS.items():
        if number in professions:
            yield (task, professions[number], str(int(row["gender"]))), row["hard_text"]


def _reviews(row: Row, _subset: str | None) -> Iterator[Example]:
    category, rating = int(row["category"]), int(float(row["rating"]))
    if rating in _RATINGS:
        yield ("amazon_reviews sentiment", _RATINGS[rating], ""), row["text"]
        if category in _CATEGORIES:
            yield ("amazon_reviews category", _CATEGORIES[category], str(rating)), row["text"]


def _code(row: Row, _subset: str | None) -> Iterator[Example]:
    """A source file; the row gives the language, or the file's name does, as in the data set's own script."""
    language = str(row.get("language") or _EXTENSIONS.get(Path(row["path"]).suffix))
    code = row.get("code") or row.get("content") or ""
    if language in _EXTENSIONS.values() and len(code) > SKIPPED_CHARS + CODE_CHARS:
        yield ("github_code", language, ""), code[SKIPPED_CHARS:]


def _news(row: Row, _subset: str | None) -> Iterator[Example]:
    yield ("ag_news", _NEWS[int(row["label"])], ""), row["text"]


def _speeches(row: Row, language: str | None) -> Iterator[Example]:
    if language is not None:
        yield ("europarl", language, ""), row["translation"][language]


SETS = {
    "bias_in_bios": PublicSet(
        "LabHC/bias_in_bios",
        {task: tuple(professions.values()) for task, professions in _PROFESSIONS.items()},
        dict.fromkeys(_PROFESSIONS, ("0", "1")),
        ("hard_text", "profession", "gender"),
        _biographies,
        "The profession of the person a biography is about, as many women as men (De-Arteaga et al. 2019).",
    ),
    "amazon_reviews": PublicSet(
        "canrager/amazon_reviews_mcauley_1and5",
        {"amazon_reviews category": tuple(_CATEGORIES.values()), "amazon_reviews sentiment": tuple(_RATINGS.values())},
        {"amazon_reviews category": ("1", "5"), "amazon_reviews sentiment": ("",)},
        ("text", "category", "rating"),
        _reviews,
        "What a review is of, or how many stars it gives (Hou et al. 2024).",
    ),
    "github_code": PublicSet(
        "codeparrot/github-code",
        {"github_code": ("C", "Python", "HTML", "Java", "PHP")},
        {"github_code": ("",)},
        ("path",),
        _code,
        "The language of a source file, without its first 150 characters.",
        has_test=False,
        files="data/train-*.parquet",
    ),
    "ag_news": PublicSet(
        "fancyzhx/ag_news",
        {"ag_news": _NEWS},
        {"ag_news": ("",)},
        ("text", "label"),
        _news,
        "The topic of a news item (Zhang et al. 2015).",
    ),
    "europarl": PublicSet(
        "Helsinki-NLP/europarl",
        {"europarl": ("en", "fr", "de", "es", "nl")},
        {"europarl": ("",)},
        ("translation",),
        _speeches,
        "The language of a sentence spoken in the European Parliament (Koehn 2005).",
        subsets=dict(_PAIRS),
        has_test=False,
    ),
}
"""The data sets by their names, `config.PUBLIC_SETS`."""


def public_tasks(
    name: str,
    *,
    train_texts: int = PUBLIC_TEXTS,
    test_texts: int = round(TEST_SHARE * PUBLIC_TEXTS),
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress = silent,
) -> list[Task]:
    """Make the tasks of a data set, with half of a problem's texts for each concept; the other half is negative texts.

    The function gathers rows until every cell has `POOL` times the wanted texts, and then draws among these. Repeated
    texts count once, and no text is on both sides.

    Args:
        name: One of `SETS`.
        train_texts: Training texts that a concept may use, half of them positive.
        test_texts: Test texts that a concept may use, half of them positive.
        seed: Seed of the draws.
        folder: A folder with copies of the data sets by their hub ids, instead of the hub.
        progress: Told the number of gathered texts.

    Raises:
        UserError: If the data set cannot be read, lacks a column or has too few texts.
    """
    chosen = SETS[name]
    wanted = (train_texts // 2, test_texts // 2)
    if chosen.has_test:
        sides = [
            _gather(name, split, {cell: POOL * _share(chosen, cell, count) for cell in chosen.cells}, folder, progress)
            for split, count in (("train", wanted[0]), ("test", wanted[1]))
        ]
    else:
        limits = {cell: POOL * sum(_share(chosen, cell, count) for count in wanted) for cell in chosen.cells}
        sides = _divided(_gather(name, "train", limits, folder, progress), wanted, seed)
    tasks = [_task(chosen, task, sides, wanted, seed) for task in chosen.tasks]
    for task in tasks:
        if not usable_concepts(task):
            raise UserError(
                f"The data set {chosen.source} has too few texts for the task {task.name}; give a whole copy of it."
            )
    return tasks


def require_copies(name: str, folder: Path) -> None:
    """Refuse a folder without a usable copy of a data set, before anything is computed.

    Raises:
        UserError: If the folder lacks a split of the data set, or the rows lack a column.
    """
    chosen = SETS[name]
    for subset in chosen.subsets:
        for split in ("train", "test") if chosen.has_test else ("train",):
            next(_copied_rows(chosen, subset, split, folder), None)


def _share(chosen: PublicSet, cell: Cell, count: int) -> int:
    """The number of a concept's texts that a group provides."""
    return -(-count // len(chosen.groups[cell[0]]))


def _gather(name: str, split: str, limits: Mapping[Cell, int], folder: Path | None, progress: Progress) -> Cells:
    """Gather the first texts of each cell of a split, up to the cell's limit."""
    chosen = SETS[name]
    cells: Cells = {cell: [] for cell in limits}
    seen: dict[str, set[str]] = {task: set() for task in chosen.tasks}
    for subset, concept in chosen.subsets.items():
        mine = [cell for cell in cells if concept in (None, cell[1])]
        for number, row in enumerate(_rows(chosen, subset, split, folder), start=1):
            for cell, text in _examples(chosen, row, concept, number, split):
                if text not in seen[cell[0]] and len(cells.get(cell, ())) < limits.get(cell, 0):
                    seen[cell[0]].add(text)
                    cells[cell].append(text)
            full = all(len(cells[cell]) == limits[cell] for cell in mine)
            if number % 1000 == 0 or full:
                progress(Tick(f"read {name}", sum(map(len, cells.values())), sum(limits.values()), "texts"))
            if full or number == MAX_ROWS:
                break
    return cells


def _examples(chosen: PublicSet, row: Row, concept: str | None, number: int, split: str) -> list[Example]:
    """The examples of a row, without empty texts."""
    try:
        found = list(chosen.examples(row, concept))
    except (KeyError, IndexError, TypeError, ValueError):
        raise UserError(
            f"Row {number} of the split {split} of the data set {chosen.source} does not hold what its columns "
            f"{', '.join(chosen.columns)} should; give a whole copy of it."
        ) from None
    return [(cell, text) for cell, text in found if isinstance(text, str) and text.strip()]


def _rows(chosen: PublicSet, subset: str | None, split: str, folder: Path | None) -> Iterator[Row]:
    if folder is None:
        return hub.stream_rows(
            chosen.source,
            chosen.columns,
            subset=subset,
            split=split,
            files=chosen.files,
            instead="copy it from a machine that can and give the folder with --task-folder",
            check="try again later, or give a copy of it with --task-folder",
        )
    return _copied_rows(chosen, subset, split, folder)


def _copied_rows(chosen: PublicSet, subset: str | None, split: str, folder: Path) -> Iterator[Row]:
    """Read rows from a copy of the data set's repository, where the name of each file begins with its split."""
    place = folder / chosen.source / (subset or "")
    files = [
        path
        for path in sorted(place.rglob("*"))
        if format_of(path) in tables.FORMATS and (path.name.startswith(split) or path.parent.name == split)
    ]
    if not files:
        raise UserError(
            f"{place} holds no Parquet, JSONL or CSV file of the split {split}; put a copy of the hub data set "
            f"{chosen.source} there."
        )
    for path in files:
        yield from tables.read_rows(path, chosen.columns)


def _divided(cells: Cells, wanted: tuple[int, int], seed: int) -> list[Cells]:
    """Divide the texts of each cell into training and test texts, in the wanted proportion."""
    sides: list[Cells] = [{}, {}]
    for number, (cell, texts) in enumerate(cells.items()):
        order = np.random.default_rng([seed, 0, number]).permutation(len(texts))
        cut = round(len(texts) * wanted[0] / sum(wanted))
        for side, places in zip(sides, (order[:cut], order[cut:]), strict=True):
            side[cell] = [texts[place] for place in np.sort(places)]
    return sides


def _task(chosen: PublicSet, name: str, sides: list[Cells], wanted: tuple[int, int], seed: int) -> Task:
    train = _drawn(chosen, name, sides[0], wanted[0], [seed, 1], frozenset())
    test = _drawn(chosen, name, sides[1], wanted[1], [seed, 2], frozenset(text for text, _ in train))
    texts_and_labels = [list(column) for side in (train, test) for column in (zip(*side, strict=True) or ((), ()))]
    return Task(name, f"{chosen.about} {chosen.source} on the Hugging Face hub.", *texts_and_labels)


def _drawn(
    chosen: PublicSet, name: str, cells: Cells, count: int, seeds: list[int], without: frozenset[str]
) -> list[tuple[str, str]]:
    """Draw (text, concept) pairs of every concept, equally many from each of its groups."""
    drawn = []
    for number, concept in enumerate(chosen.tasks[name]):
        groups = [
            [text for text in cells[name, concept, group] if text not in without] for group in chosen.groups[name]
        ]
        share = min(-(-count // len(groups)), *map(len, groups))
        for place, texts in enumerate(groups):
            order = np.random.default_rng([*seeds, number, place]).permutation(len(texts))[:share]
            drawn += [(texts[at], concept) for at in order]
    return drawn
