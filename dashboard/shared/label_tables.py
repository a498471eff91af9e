"""Labels as people edit them: the table, what was edited in it, lists of features, and texts side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from dashboard.shared.reads.opening import EnsembleInfo
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import decimal, moment, whole
from sae_core.labels import EMPTY, WRITTEN, Change, Edit, Label, Source, Step
from sae_core.labels.fields import Value
from sae_core.report.html import Cell, Column, Html, element
from sae_core.report.pieces.cards import table, tiles

SEPARATOR = "; "
"""Stands between a label and what is appended to it."""
ACTIONS = {"set": "Set the label", "append": "Append to the label", "remove": "Remove the label"}
_PROPAGATED = "propagated from "
_KINDS = {
    "edit": "label",
    "bulk": "several labels",
    "import": "import",
    "family": "given to a family",
    "undo": "taken back",
    "redo": "made again",
    "": "label",
}


def edited_table(labels: Sequence[Label]) -> pd.DataFrame:
    """The table that people edit, one row a label."""
    return pd.DataFrame(
        {
            "open": ["Open"] * len(labels),
            "place": [f"{one.ensemble} {one.feature}" for one in labels],
            **{name: pd.Series([one.values[name] for one in labels], dtype=of.dtype) for name, of in WRITTEN.items()},
            "source": [source_text(one.source).removeprefix(_PROPAGATED) for one in labels],
            "author": [one.author for one in labels],
            "time": [moment(one.time) for one in labels],
            "changes": ["Changes"] * len(labels),
        }
    )


def source_text(source: Source | None) -> str:
    """Where a propagated label comes from; empty for one that a person wrote."""
    if source is None:
        return ""
    return f"{_PROPAGATED}feature {source.feature}, cosine {decimal(source.score)}"


def matching(labels: Iterable[Label], search: str, *, ensemble: str = "", kind: str = "") -> list[Label]:
    """Labels that hold every word of a search in what people wrote or in the author.

    Args:
        labels: All labels.
        search: Words; upper and lower case are the same.
        ensemble: Only labels of this one, if given.
        kind: ``own`` or ``propagated``; all, if not given.
    """
    words = search.lower().split()
    return [
        one
        for one in labels
        if (not ensemble or one.ensemble == ensemble)
        and (not kind or (one.source is not None) == (kind == "propagated"))
        and all(word in f"{one.text(' ')} {one.author}".lower() for word in words)
    ]


def edits_in_table(
    labels: Sequence[Label], edited: Mapping[int, Mapping[str, Any]], done: Mapping[int, Mapping[str, Any]], author: str
) -> list[Edit]:
    """What was edited in the table since the last time.

    Args:
        labels: The labels that the table shows, in its order.
        edited: By row and column what people put into the table since it was made; the table keeps all of it.
        done: What of it was saved before.
        author: Who edits.
    """
    edits = []
    for row, cells in edited.items():
        before = done.get(row, {})
        fresh = {name: value for name, value in cells.items() if name not in before or before[name] != value}
        if row < len(labels) and (fresh := {name: fresh[name] for name in WRITTEN if name in fresh}):
            one = labels[row]
            given = {name: WRITTEN[name].empty if value is None else value for name, value in fresh.items()}
            edits.append(Edit(Label.by(author, one.ensemble, one.place, one.values | given), one.version))
    return edits


def listed(text: str, info: EnsembleInfo) -> list[int]:
    """The features of a list such as ``3, 17-20, 1:6``: numbers in the ensemble, ranges, and member:number.

    Raises:
        UserError: If a part of it names no feature.
    """
    total = sum(info.widths)
    found: dict[int, None] = {}
    for part in text.replace(",", " ").replace(";", " ").split():
        member, colon, rest = part.rpartition(":")
        start, end, shift = 0, total, 0
        if colon:
            if not _is_number(member) or int(member) >= len(info.widths):
                raise UserError(f"“{part[:80]}” names no member; they are numbered 0 to {len(info.widths) - 1}.")
            shift, end = sum(info.widths[: int(member)]), info.widths[int(member)]
        first, _, last = rest.partition("-")
        last = last or first
        if not (_is_number(first) and _is_number(last) and start <= int(first) <= int(last) < end):
            raise UserError(f"“{part[:80]}” names no feature; numbers go from 0 to {end - 1:,}, as in 3, 17-20, 1:6.")
        found.update(dict.fromkeys(range(shift + int(first), shift + int(last) + 1)))
    return list(found)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def bulk_edits(
    info: EnsembleInfo,
    features: Sequence[int],
    there: Mapping[int, Label],
    versions: Mapping[int, int],
    *,
    action: str,
    text: str,
    author: str,
) -> list[Edit]:
    """One edit for each of several features whose label changes; all else stays, unless the label is removed.

    Args:
        info: The ensemble.
        features: The features.
        there: Their labels, of those that have one.
        versions: Their versions.
        action: A key of `ACTIONS`.
        text: What is set or appended.
        author: Who edits.
    """
    edits = []
    for feature in features:
        old = there.get(feature)
        before: dict[str, Value] = old.values if old else dict(EMPTY)
        label = str(before["label"])
        if action == "remove":
            values = dict(EMPTY)
        elif action == "set":
            values = {**before, "label": text}
        elif text.lower() not in [part.strip().lower() for part in label.split(SEPARATOR.strip())]:
            values = {**before, "label": f"{label}{SEPARATOR}{text}" if label else text}
        else:
            continue
        if values != before:
            wanted = Label.by(author, info.name, (feature, *info.place(feature)), values)
            edits.append(Edit(wanted, versions.get(feature, 0)))
    return edits


def side_by_side(pairs: Sequence[tuple[Label, Label | None, str]]) -> pd.DataFrame:
    """Two texts for each feature, and a box that says which is taken; given as (wanted, there, who changed it)."""
    return pd.DataFrame(
        {
            "replace": [False] * len(pairs),
            "ensemble": [wanted.ensemble for wanted, _, _ in pairs],
            "feature": [wanted.feature for wanted, _, _ in pairs],
            "member": [wanted.member for wanted, _, _ in pairs],
            "latent": [wanted.latent for wanted, _, _ in pairs],
            "there": [_in_one_line(there) for _, there, _ in pairs],
            "yours": [_in_one_line(wanted) for wanted, _, _ in pairs],
            "by": [by for _, _, by in pairs],
        }
    )


def _in_one_line(label: Label | None) -> str:
    return (label.text(" — ") if label else "") or "(no label)"


def two_texts(wanted: Label, there: Label | None, by: str, time: str) -> Html:
    """What is there and what a person wants, beside each other."""
    theirs = f"saved by {by or 'somebody'}, {moment(time)}" if time else f"saved by {by or 'somebody'}"
    title = f"Removed by {by or 'somebody'}" if there is None else f"There now, {theirs}"
    return tiles([_text_tile(title, there), _text_tile("Yours", wanted)])


def _text_tile(title: str, label: Label | None) -> Html:
    text = label.label if label and label.label else "(no label)"
    said = element("span", text, kind="v", style="font-size:1rem")
    rest = replace(label, label="").text(" · ") if label else ""
    return element("div", element("span", title, kind="k"), said, element("span", rest, kind="s"))


def history_table(changes: Sequence[Change]) -> Html:
    """A feature's history, the latest change first."""
    columns = (
        *(Column(kind.title, f"The {kind.title.lower()} after the change", prose=True) for kind in WRITTEN.values()),
        Column("Was", "The label before the change", prose=True),
        Column("What", "What the change was part of", prose=True),
        Column("By", "Who made the change; an import may bring labels of others", prose=True),
        Column("Time", prose=True),
    )
    rows = [
        [
            *_after(one),
            Cell(WRITTEN["label"].text(one.old["label"]) if one.old else "(none)"),
            Cell(_KINDS.get(one.kind, one.kind)),
            Cell(one.by or one.author, f"label of {one.author}" if one.by and one.by != one.author else ""),
            Cell(moment(one.time)),
        ]
        for one in reversed(changes)
    ]
    return table(columns, rows)


def _after(change: Change) -> list[Cell]:
    """What people had written after a change; the tooltip of the label says where it was propagated from."""
    if change.new is None:
        return [Cell("(removed)"), *(Cell("") for _ in list(WRITTEN)[1:])]
    label, *more = (kind.text(change.new[name]) for name, kind in WRITTEN.items())
    return [Cell(label or "(no label)", source_text(change.source)), *map(Cell, more)]


def steps_table(steps: Sequence[Step]) -> Html:
    """What people did, the latest first."""
    columns = (
        Column("What", prose=True),
        Column("Labels", "How many labels it changed", prose=True),
        Column("By", prose=True),
        Column("Time", prose=True),
        Column("More", "The file of an import, or the label of a family", prose=True),
    )
    rows = [
        [
            Cell(_KINDS.get(step.kind, step.kind), _since(step)),
            Cell(whole(step.labels)),
            Cell(step.author or "anonymous"),
            Cell(moment(step.time)),
            Cell(step.text[:80] if step.kind not in ("undo", "redo") else ""),
        ]
        for step in steps
    ]
    return table(columns, rows)


def _since(step: Step) -> str:
    if not step.undone:
        return ""
    return "made again since" if step.kind == "undo" else "taken back since"


def step_text(step: Step) -> str:
    """A step in a few words."""
    count = f"{whole(step.labels)} label{'' if step.labels == 1 else 's'}"
    what = {"edit": "change of", "bulk": "change of", "import": "import of", "family": "giving to a family of"}
    return f"{what.get(step.kind, 'change of')} {count}, {moment(step.time)}"
