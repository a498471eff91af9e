"""The records of labels: a label and its source, edits and conflicts, steps and the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

from sae_core.foundation import numbering
from sae_core.foundation.errors import UserError
from sae_core.labels.fields import Field, Value, Words, clean

AUTHOR = Words(title="Author", longest=80, since=1)
"""The author of a label or of a step."""

Kind = Literal["edit", "bulk", "import", "family", "undo", "redo"]
"""The kind of a step: one label, several labels, an imported file, a family, an undo or a redo."""


def written(kind: Field) -> dict[str, Field]:
    """Mark a field of `Label` as one that people fill in."""
    return {"written": kind}


@dataclass(frozen=True, slots=True)
class Source:
    """The feature from which a label was propagated.

    Attributes:
        feature: Number of the source feature in the ensemble.
        member: Number of the source feature's member.
        latent: Number of the source feature within the member.
        score: The cosine of the two features' atoms, to four decimals.
    """

    feature: int
    member: int
    latent: int
    score: float


@dataclass(frozen=True, slots=True)
class Label:
    """A person's label of a feature. What people write in it is declared here and nowhere else.

    Attributes:
        ensemble: Name of the ensemble.
        member: Number of the member.
        latent: Number of the feature within the member.
        feature: Number of the feature in the ensemble.
        label: A few words.
        note: Anything longer.
        author: The person who wrote the label.
        time: The time of writing in UTC, as 2026-01-31T12:00:00Z.
        source: The feature from which the label was propagated; None if a person wrote or changed the label.
        version: Number of the change that made this label; later changes have larger numbers.
    """

    ensemble: str
    member: int
    latent: int
    feature: int
    label: str = field(
        metadata=written(
            Words(title="Label", longest=200, since=1, hint="What does it respond to?", width=1.3, spreads=True)
        )
    )
    note: str = field(
        metadata=written(Words(title="Note", longest=2000, since=1, hint="Doubts, exceptions, ideas", width=2.2))
    )
    author: str
    time: str
    source: Source | None = None
    version: int = field(default=0, compare=False)

    @classmethod
    def by(cls, author: str, ensemble: str, place: tuple[int, int, int], values: Mapping[str, Value]) -> Label:
        """A label that a person writes now.

        Args:
            author: The person.
            ensemble: Name of the ensemble.
            place: Feature, member and latent.
            values: What the person writes, by name of the field; other fields are empty.
        """
        texts: dict[str, Any] = {**EMPTY, **values}
        feature, member, latent = place
        return cls(ensemble, member, latent, feature, **texts, author=author, time=now())

    @property
    def key(self) -> tuple[str, int]:
        """The labelled feature: (ensemble, number in the ensemble)."""
        return self.ensemble, self.feature

    @property
    def place(self) -> tuple[int, int, int]:
        """Feature, member and latent."""
        return self.feature, self.member, self.latent

    @property
    def values(self) -> dict[str, Value]:
        """What people wrote, by name of the field."""
        return {name: getattr(self, name) for name in WRITTEN}

    @property
    def empty(self) -> bool:
        """Whether nobody has filled in any field; empty labels are not stored."""
        return self.values == EMPTY

    @property
    def spreading(self) -> dict[str, Value]:
        """The values that propagated labels take from this one."""
        return {name: getattr(self, name) for name, one in WRITTEN.items() if one.spreads}

    def text(self, separator: str) -> str:
        """What people wrote, in one text."""
        return separator.join(filter(None, (WRITTEN[name].shown(value) for name, value in self.values.items())))

    def cleaned(self) -> Label:
        """Return the label with its texts stripped of blanks and of characters that databases refuse (see `clean`)."""
        texts: dict[str, Any] = {name: clean(text) for name, text in self.values.items() if isinstance(text, str)}
        return replace(self, **texts, author=clean(self.author))


WRITTEN: Mapping[str, Field] = {one.name: one.metadata["written"] for one in fields(Label) if "written" in one.metadata}
"""The fields that people fill in, by their names in `Label`, in tables and in CSV files."""
EMPTY: Mapping[str, Value] = {name: one.empty for name, one in WRITTEN.items()}
COLUMNS = (
    *("run", "ensemble", *numbering.COLUMNS, *WRITTEN, "author", "time"),
    *(*(f"source_{name}" for name in numbering.COLUMNS), "score"),
)
"""Columns of the table and of the CSV file. A feature, and the source of a propagated label, has both its numbers."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change that a person wants to make to a label.

    Attributes:
        wanted: The new label; an empty label removes the old one.
        seen: The version of the feature that the person saw, 0 if it was never labelled; None skips the check.
    """

    wanted: Label
    seen: int | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A refused edit: somebody else changed the label after the person saw it.

    Attributes:
        wanted: The label that the person wants.
        theirs: The present label; None if somebody removed the label.
        version: The present version; an `Edit` that has seen this version is accepted.
        author: The person who changed the label.
        time: The time of that change.
    """

    wanted: Label
    theirs: Label | None
    version: int
    author: str
    time: str

    def replacing(self) -> Edit:
        """Return the edit that replaces the present label by the wanted one."""
        return Edit(self.wanted, self.version)


@dataclass(frozen=True, slots=True)
class Saved:
    """The result of edits: all edits are saved, or none is and the conflicts say why.

    Attributes:
        step: Number of the step; None if the edits changed nothing.
        changed: Number of labels that the edits changed.
        given: Number of labels that were propagated to other features.
        followed: Number of earlier propagated labels that changed together with their source.
        conflicts: The labels that somebody else changed meanwhile.
        versions: The new versions of the changed features, by ensemble and feature.
    """

    step: int | None
    changed: int = 0
    given: int = 0
    followed: int = 0
    conflicts: tuple[Conflict, ...] = ()
    versions: Mapping[tuple[str, int], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Copy:
    """A feature to which a label is propagated, with its match score."""

    feature: int
    member: int
    latent: int
    score: float


@dataclass(frozen=True, slots=True)
class Step:
    """One action of one person: one label, several labels, an import, a family, an undo or a redo.

    Attributes:
        number: Number of the step; later steps have larger numbers.
        kind: See `Kind`.
        author: The person.
        time: The time in UTC.
        text: A detail of the step, such as the name of a file.
        labels: Number of labels that the step changed.
        undone: Whether the step is undone at present.
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
    """The result of an undo or a redo.

    Attributes:
        step: The step that was taken back; for a redo, this step is an undo.
        restored: Number of labels that are again as before that step.
        left: Number of labels that stay because somebody changed them later.
        number: Number of the new step; None if nothing changed.
    """

    step: Step
    restored: int
    left: int
    number: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """One entry in the history of a label.

    Attributes:
        old: What people had written before, by name of the field; None if there was no label.
        new: The same after the change.
        author: The author of the label.
        time: The time of the label.
        kind: The kind of the step; empty in files of older versions, which do not record it.
        by: The person who made the step. An import may bring labels of other authors.
        source: The source of a propagated label.
    """

    old: Mapping[str, Value] | None
    new: Mapping[str, Value] | None
    author: str
    time: str
    kind: str = ""
    by: str = ""
    source: Source | None = None


def cells_of(label: Label, run_name: str) -> tuple[Any, ...]:
    """The cells of a label, one for each of `COLUMNS`. The cells of a missing source are None."""
    source = label.source
    origin = (source.feature, source.member, source.latent, source.score) if source else (None,) * 4
    return (run_name, label.ensemble, *label.place, *label.values.values(), label.author, label.time, *origin)


def fault_of(label: Label) -> str:
    """Name the first field with a value that it does not take, as the second half of a sentence; empty if all fit."""
    for name, kind in (*WRITTEN.items(), ("author", AUTHOR)):
        if fault := kind.fault(getattr(label, name)):
            return f"column {name}: {fault}"
    return ""


def require_fit(label: Label) -> None:
    """Refuse a label with a text that is too long, or another value that its field does not take.

    Raises:
        UserError: If there is such a value.
    """
    if fault := fault_of(label):
        raise UserError(f"Feature {label.feature} of {label.ensemble}, {fault}")


def require_distinct(labels: Iterable[Label]) -> None:
    """Refuse two labels of one feature, since the second would replace the first, and impossible feature numbers.

    Raises:
        UserError: If there is such a label.
    """
    seen: set[tuple[str, int]] = set()
    for label in labels:
        if not all(0 <= number <= numbering.MOST for number in label.place):
            raise UserError(f"{label.ensemble} has no feature {str(label.feature)[:40]}; nothing is saved.")
        if label.key in seen:
            raise UserError(f"Feature {label.feature} of {label.ensemble} is there twice; give one label for it.")
        seen.add(label.key)


def now() -> str:
    """The present time, in the format of stored times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
