"""Plan an import before anything is written: compare the file's labels with the stored ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sae_core.labels.csv_file import parse_csv
from sae_core.labels.records import Edit, Label
from sae_core.labels.store import LabelStore


@dataclass(frozen=True, slots=True)
class Difference:
    """A label of the file, and the different label that its feature already has."""

    wanted: Label
    there: Label


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """The changes that an import would make.

    Attributes:
        new: Labels of features without a stored label, with the versions of these features.
        same: Number of labels that are stored already, word for word.
        differing: Labels of features with a different stored label.
        removed: Number of labels in ``new`` whose feature had a label that somebody removed.
        unlabelled: Number of rows without label and note, which are skipped.
        is_old: Whether column ``feature`` is the number within the member, as in files of older versions.
    """

    new: tuple[Edit, ...]
    same: int
    differing: tuple[Difference, ...]
    removed: int
    unlabelled: int = 0
    is_old: bool = False

    @property
    def remarks(self) -> list[str]:
        """Remarks about the file, in sentences."""
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
        """Number of labels in the file."""
        return len(self.new) + self.same + len(self.differing)

    def edits(self, *, replace: Iterable[tuple[str, int]] | None = None) -> list[Edit]:
        """Return the edits of the import.

        Args:
            replace: Ensemble and feature of each differing label to replace; the others are kept. None replaces all.
        """
        chosen = None if replace is None else set(replace)
        taken = [one for one in self.differing if chosen is None or one.wanted.key in chosen]
        return [*self.new, *(Edit(one.wanted, one.there.version) for one in taken)]


def plan_import(store: LabelStore, text: str, widths: Mapping[str, Sequence[int]]) -> ImportPlan:
    """Compare a CSV text with the stored labels; write nothing.

    Args:
        store: The stored labels.
        text: The text of a file with the columns ensemble and label, and with feature (the number in the ensemble), or
            with member and latent (the number within the member), or with all three, in any order. A file with feature
            and member but without latent comes from an older version; its feature is the number within the member. What
            people wrote in a field for which the file has no column stays.
        widths: Number of features of each member, for every ensemble of the run.

    Raises:
        UserError: One sentence that names the wrong line and column.
    """
    file = parse_csv(text, widths, store.run_name)
    there = {label.key: label for label in store.all()}
    wanted = [_completed(label, there.get(label.key), file.lacking) for label in file.labels]
    fresh = [label for label in wanted if label.key not in there]
    versions = {
        name: store.versions(name, [label.feature for label in fresh if label.ensemble == name])
        for name in {label.ensemble for label in fresh}
    }
    new = tuple(Edit(label, versions[label.ensemble][label.feature]) for label in fresh)
    pairs = [Difference(label, there[label.key]) for label in wanted if label.key in there]
    differing = tuple(one for one in pairs if one.wanted.values != one.there.values)
    removed = sum(1 for edit in new if edit.seen)
    return ImportPlan(new, len(pairs) - len(differing), differing, removed, file.unlabelled, file.is_old)


def _completed(wanted: Label, there: Label | None, lacking: Iterable[str]) -> Label:
    """A label of the file, with the stored values of the fields that the file lacks."""
    return replace(wanted, **{name: getattr(there, name) for name in lacking}) if there else wanted
