"""Labels in tests: what a change changed, and a file that is imported at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae_core.labels import Change, LabelStore, plan_import


def before_and_after(change: Change) -> tuple[str | None, str | None]:
    """The label before and after a change."""
    old, new = (None if values is None else str(values["label"]) for values in (change.old, change.new))
    return old, new


def read_csv(store: LabelStore, text: str, widths: Mapping[str, Sequence[int]], author: str = "") -> int:
    """Import a file, and return how many labels it has; a label of the file replaces the stored one."""
    plan = plan_import(store, text, widths)
    store.save(plan.edits(), author=author, kind="import")
    return plan.total
