"""What labels are made of: a label, where a propagated one comes from, edits, conflicts, steps and their history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from sae_core.foundation import numbering
from sae_core.foundation.errors import UserError

COLUMNS = (
    *("run", "ensemble", *numbering.COLUMNS, "label", "note", "author", "time"),
    *(*(f"source_{name}" for name in numbering.COLUMNS), "score"),
)
"""Columns of the table and of the CSV file, with both numbers of a feature and of the source of a propagated label."""

LONGEST = {"label": 200, "note": 2000, "author": 80}
"""Characters of each text, wherever it comes from: a form, a table, a file or a program."""

Kind = Literal["edit", "bulk", "import", "family", "undo", "redo"]
"""What a step was: one label, several at once, a file, a family, taking back an earlier step, or that step again."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a propagated label comes from.

    Attributes:
        feature: Number of the source feature in the ensemble.
        member: Number of its member.
        latent: Its number within the member.
        score: How well the two features match: the cosine of their atoms, to four decimals.
    """

    feature: int
    member: int
    latent: int
    score: float


@dataclass(frozen=True, slots=True)
class Label:
    """What a person wrote about a feature.

    Attributes:
        ensemble: Name of the ensemble.
        member: Number of the member.
        latent: Number of the feature within the member.
        feature: Number of the feature in the ensemble.
        label: A few words.
        note: Anything longer.
        author: Who wrote it.
        time: When, in UTC, as 2026-01-31T12:00:00Z.
        source: The feature that it was propagated from; None once a person has changed it, or wrote it.
        version: Which change of the feature this is: a later change has a larger one.
    """

    ensemble: str
    member: int
    latent: int
    feature: int
    label: str
    note: str
    author: str
    time: str
    source: Source | None = None
    version: int = field(default=0, compare=False)

    @property
    def key(self) -> tuple[str, int]:
        """What it is a label of."""
        return self.ensemble, self.feature

    @property
    def empty(self) -> bool:
        """Whether nothing is written: no such label is kept."""
        return not (self.label or self.note)

    def cleaned(self) -> Label:
        """Without blanks around its texts, and without what a database cannot keep (NUL, half of a surrogate pair)."""
        label, note, author = (clean(text) for text in (self.label, self.note, self.author))
        return replace(self, label=label, note=note, author=author)


@dataclass(frozen=True, slots=True)
class Edit:
    """A label that a person wants.

    Attributes:
        wanted: The label; an empty one removes what is there.
        seen: The version of the feature that the person saw, 0 where nothing was ever written; None writes in any case.
    """

    wanted: Label
    seen: int | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A label that somebody else has changed since the person who writes it saw it; nothing of it is written.

    Attributes:
        wanted: What the person wants.
        theirs: What is there now; None if it was removed.
        version: The version of what is there: an `Edit` that has seen this one is taken.
        author: Who changed it.
        time: When.
    """

    wanted: Label
    theirs: Label | None
    version: int
    author: str
    time: str

    def replacing(self) -> Edit:
        """The edit that puts what the person wants in the place of what is there."""
        return Edit(self.wanted, self.version)


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of edits: either all are taken, or none and the conflicts say why.

    Attributes:
        step: Number of the step; None if nothing was to be changed.
        changed: Labels that were changed by the edits.
        given: Labels that were propagated to others.
        followed: Labels that were propagated before and changed with their source.
        conflicts: What somebody else has changed meanwhile.
        versions: The new versions of the features that were changed, by ensemble and feature.
    """

    step: int | None
    changed: int = 0
    given: int = 0
    followed: int = 0
    conflicts: tuple[Conflict, ...] = ()
    versions: Mapping[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy:
    """A feature that a label is to be propagated to, with its match score."""

    feature: int
    member: int
    latent: int
    score: float


@dataclass(frozen=True, slots=True)
class Step:
    """What one person did at once: one label, several, an import, a family, an undo, a redo.

    Attributes:
        number: Later steps have larger ones.
        kind: See `Kind`.
        author: Who.
        time: When, in UTC.
        text: More about it, such as the name of a file.
        labels: How many labels it changed.
        undone: Whether it has been taken back, and not made again since; of an undo, whether it was.
    """

    number: int
    kind: str
    author: str
    time: str
    text: str
    labels: int
    undone: bool


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo or a redo came to.

    Attributes:
        step: The step that it took back; for a redo an undo.
        restored: Labels that are as they were before that step.
        left: Labels that were left since they were changed later.
        number: Number of the step that it is itself; None where nothing was to be changed.
    """

    step: Step
    restored: int
    left: int
    number: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of a label's history; None stands for no label.

    Attributes:
        old_label: The label before.
        new_label: The label after.
        old_note: The note before.
        new_note: The note after.
        author: Who is named beside the label.
        time: The time beside the label.
        kind: What the step was; empty where it is not known, in files of old.
        by: Who made the step; an import may bring labels of others.
        source: Where a propagated label came from.
    """

    old_label: str | None
    new_label: str | None
    old_note: str | None
    new_note: str | None
    author: str
    time: str
    kind: str = ""
    by: str = ""
    source: Source | None = None


def cells_of(label: Label, run_name: str) -> tuple[Any, ...]:
    """The cells of a label, one for each of `COLUMNS`; None where it comes from nowhere else."""
    source = label.source
    origin = (source.feature, source.member, source.latent, source.score) if source else (None,) * 4
    place = (label.feature, label.member, label.latent)
    return (run_name, label.ensemble, *place, label.label, label.note, label.author, label.time, *origin)


def over_limit(label: Label) -> str:
    """What is longer than `LONGEST`, as a sentence that goes on after a line or a feature; empty if nothing is."""
    for name, most in LONGEST.items():
        length = len(getattr(label, name))
        if length > most:
            return f"column {name}: it has {length:,} characters and {most:,} fit; shorten it."
    return ""


def require_fit(label: Label) -> None:
    """Refuse what no form would take.

    Raises:
        UserError: If a text is longer than `LONGEST`.
    """
    if fault := over_limit(label):
        raise UserError(f"Feature {label.feature} of {label.ensemble}, {fault}")


def require_distinct(labels: Iterable[Label]) -> None:
    """Refuse two labels of one feature, as the second would take the first's place, and numbers of none.

    Raises:
        UserError: If there are such.
    """
    seen: set[tuple[str, int]] = set()
    for label in labels:
        if not all(0 <= number <= numbering.MOST for number in (label.feature, label.member, label.latent)):
            raise UserError(f"{label.ensemble} has no feature {str(label.feature)[:40]}; nothing is saved.")
        if label.key in seen:
            raise UserError(f"Feature {label.feature} of {label.ensemble} is there twice; give one label for it.")
        seen.add(label.key)


def clean(text: str) -> str:
    """Text without blanks around it and without what a database cannot keep."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8").strip()


def now() -> str:
    """The present moment, as times are kept."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
