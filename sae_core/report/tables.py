"""Tables of a report's figures, for its page and for the dashboard's overview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.shared.terms import NOISE_NULL
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import MISSING, compact, decimal, seconds, signed, size
from sae_core.report.columns import STAGES, TRUTH, Columns, Style, micro, percents
from sae_core.report.controls import rows_of
from sae_core.report.html import Cell, Column, Html, number, table
from sae_core.report.known import COMPARED
from sae_core.report.style import color_of

Content = Mapping[str, Any]
"""What `gather` gives."""
MEMBER_COLUMNS: Mapping[str, tuple[Column, Style]] = {
    "train_seconds": (Column("Training"), seconds),
    "train_flops": (Column("Training FLOPs"), compact),
    "bytes": (Column("On disk"), size),
    "inference_seconds_per_token": (Column("Time a token"), micro),
    "explained_variance": (Column("Explained variance"), percents(2)),
    "added_explained_variance": (
        Column("Added", "What the last of these members adds to the explained variance"),
        percents(2),
    ),
    "added_per_cost": (
        Column("per cost", "The same for as much training arithmetic as the first member took"),
        percents(2),
    ),
}
"""Costs and gains of the first members, by the key in ``by_members``."""
_ONE_VALUE = ("train_seconds", "train_flops", "bytes", "inference_seconds_per_token")


def by_ensemble(content: Content, columns: Columns) -> Html:
    """One row an ensemble, below a boosted one its control; columns that nobody has are left out, as is an empty table.

    Args:
        content: With ``ensembles`` and their ``figures``.
        columns: The columns, by the key of their figure.
    """
    figures = [own["figures"] for own in content["ensembles"].values()]
    there = {key: shown for key, shown in columns.items() if any(key in own for own in figures)}
    rows = [
        [
            Cell(title, color=color_of(method) if method else ""),
            *(number(own.get(key), shown.style, spread=shown.spread) for key, shown in there.items()),
        ]
        for title, method, own in rows_of(content["ensembles"], columns)
    ]
    heads = (Column(shown.title, shown.definition) for shown in there.values())
    return table(["Ensemble", *heads], rows) if there else Html()


def by_stage(content: Content) -> Html:
    """Boosted stages over independent trainings, beside noise and random atoms; empty where it is not known."""
    rows = [
        [
            Cell(f"{title_of(name)}, stage {stage['stage']}", color=color_of(name)),
            *(Cell(MISSING if stage.get(key) is None else shown.style(stage[key])) for key, shown in STAGES.items()),
        ]
        for name, own in (content["stages_over_trainings"] or {}).items()
        for stage in own["by_stage"]
    ]
    return (
        table(["Stage", *(Column(shown.title, shown.definition) for shown in STAGES.values())], rows)
        if rows
        else Html()
    )


def by_members(content: Content) -> Html:
    """Costs and gains of the first 1, 2, … J members of each ensemble that has several; empty if none has."""
    rows = [
        [
            Cell(f"{title_of(name)}, {step['members']}", color=color_of(name)),
            *(number(step[key], style, spread=key not in _ONE_VALUE) for key, (_, style) in MEMBER_COLUMNS.items()),
        ]
        for name, own in content["ensembles"].items()
        if len(own["by_members"]) > 1 and own["by_members"][-1]["added_explained_variance"]["mean"] is not None
        for step in own["by_members"]
    ]
    return table(["First members", *(column for column, _ in MEMBER_COLUMNS.values())], rows) if rows else Html()


def truth_differences(content: Content) -> Html:
    """What ensembles find of a known dictionary more than others, one row a pair."""
    rows = [
        [
            Cell(f"{title_of(row['ensemble'])} − {title_of(row['other'])}", color=color_of(row["ensemble"])),
            *(number(row[key], signed) for key in COMPARED),
        ]
        for row in content["truth"]["differences"]
    ]
    heads = (Column(title, TRUTH[f"truth.{key}"].definition) for key, title in COMPARED.items())
    return table(["Difference", *heads], rows)


def noise_notes(content: Content) -> list[str]:
    """What the null by noise is, and why an ensemble has none."""
    found = (content.get("stages_over_trainings") or {}).items()
    why = [f"{title_of(name)}: no noise, as {own['noise']['reason']}." for name, own in found if own["noise"]["reason"]]
    return [NOISE_NULL, *why] if found else []


def as_often(content: Content) -> str:
    """What one SAE with as many retrains as an ensemble has members reaches, in a sentence; empty where unknown."""
    found = content["single_as_often"]
    if not found:
        return ""
    return (
        f"One SAE given {found['retrains']} retrains has a pooled stability of {decimal(found['pooled'], 3)} (random "
        f"{decimal(found['null_pooled'], 3)}); what an ensemble has above one SAE is in part its number of atoms."
    )
