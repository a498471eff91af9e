"""An import looked at before anything is written: what is new, what is the same, what differs from what is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sae_core.labels.csv_file import parse_csv
from sae_core.labels.records import Edit, Label
from sae_core.labels.store import LabelStore


@dataclass(frozen=True, slots=True)
class Difference:
    """A label of the file and another one that its feature has already."""

    wanted: Label
    there: Label


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would do.

    Attributes:
        new: Labels of features that have none, with the versions of those features.
        same: How many labels are there already, word for word.
        differing: Labels of features that have another one.
        removed: How many of ``new`` were once there and removed by somebody.
        unlabelled: Rows of the file without label and note, which are passed over.
        is_old: Whether the file numbers features within their member in column ``feature``, as older versions did.
    """

    new: tuple[Edit, ...]
    same: int
    differing: tuple[Difference, ...]
    removed: int
    unlabelled: int = 0
    is_old: bool = False

    @property
    def remarks(self) -> list[str]:
        """What is to be said of the file, in sentences."""
        said = []
        if self.is_old:
            said.append(
                "The file has no column latent, so its column feature was read as the number within the member, as"
                " older versions wrote it."
            )
        if self.unlabelled:
            rows = "1 row" if self.unlabelled == 1 else f"{self.unlabelled:,} rows"
            said.append(f"{rows} without a label {'was' if self.unlabelled == 1 else 'were'} passed over.")
        return said

    @property
    def total(self) -> int:
        """Labels in the file."""
        return len(self.new) + self.same + len(self.differing)

    def edits(self, *, replace: Iterable[tuple[str, int]] | None = None) -> list[Edit]:
        """The edits that the import makes.

        Args:
            replace: Ensemble and feature of the differing labels that the file's replace; the others are kept. None
                replaces all.
        """
        chosen = None if replace is None else set(replace)
        taken = [one for one in self.differing if chosen is None or one.wanted.key in chosen]
        return [*self.new, *(Edit(one.wanted, one.there.version) for one in taken)]


def plan_import(store: LabelStore, text: str, widths: Mapping[str, Sequence[int]]) -> ImportPlan:
    """Compare a CSV text with the labels that are there; nothing is written.

    Args:
        store: The labels.
        text: The file.
        widths: Features of each member, for every ensemble of the run.

    Raises:
        UserError: One sentence naming the line and column at fault.
    """
    file = parse_csv(text, widths, store.run_name)
    wanted = file.labels
    there = {label.key: label for label in store.all()}
    fresh = [label for label in wanted if label.key not in there]
    versions = {
        name: store.versions(name, [label.feature for label in fresh if label.ensemble == name])
        for name in {label.ensemble for label in fresh}
    }
    new = tuple(Edit(label, versions[label.ensemble][label.feature]) for label in fresh)
    pairs = [Difference(label, there[label.key]) for label in wanted if label.key in there]
    differing = tuple(one for one in pairs if (one.wanted.label, one.wanted.note) != (one.there.label, one.there.note))
    removed = sum(1 for edit in new if edit.seen)
    return ImportPlan(new, len(pairs) - len(differing), differing, removed, file.unlabelled, file.is_old)
