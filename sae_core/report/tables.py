"""Tables of a report's figures, for its page and for the dashboard's overview."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sae_core.analysis.cost.figures import ADDED, BYTES, PER_COST, TIME_A_TOKEN, TRAIN_FLOPS, TRAIN_SECONDS
from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE
from sae_core.analysis.shared.names_in_tables import NOISE_NULL
from sae_core.analysis.stability.figures import STAGES
from sae_core.analysis.truth.figures import COMPARED
from sae_core.foundation.figures import Figure
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import MISSING, decimal, signed
from sae_core.report.controls import rows_of
from sae_core.report.html import Cell, Column, Html, number, table
from sae_core.report.style import color_of

Content = Mapping[str, Any]
"""What `gather` gives."""
_ONE_VALUE = (TRAIN_SECONDS, TRAIN_FLOPS, BYTES, TIME_A_TOKEN)
OF_MEMBERS = (*_ONE_VALUE, EXPLAINED_VARIANCE, ADDED, PER_COST)
"""Costs and gains of the first members, by their place in ``by_members``."""


def by_ensemble(content: Content, columns: Sequence[Figure]) -> Html:
    """One row an ensemble, below a boosted one its control; columns that nobody has are left out, as is an empty table.

    Args:
        content: With ``ensembles`` and their ``figures``.
        columns: The figures that are shown.
    """
    figures = [own["figures"] for own in content["ensembles"].values()]
    there = [shown for shown in columns if any(shown.key in own for own in figures)]
    rows = [
        [
            Cell(title, color=color_of(method) if method else ""),
            *(number(own.get(shown.key), shown.style, spread=shown.spread) for shown in there),
        ]
        for title, method, own in rows_of(content["ensembles"], columns)
    ]
    return table(["Ensemble", *_heads(there)], rows) if there else Html()


def _heads(figures: Iterable[Figure]) -> Iterator[Column]:
    return (Column(figure.title, figure.definition) for figure in figures)


def by_stage(content: Content) -> Html:
    """Boosted stages over independent trainings, beside noise and random atoms; empty where it is not known."""
    rows = [
        [
            Cell(f"{title_of(name)}, stage {stage['stage']}", color=color_of(name)),
            *(Cell(MISSING if (value := shown.of(stage)) is None else shown.style(value)) for shown in STAGES),
        ]
        for name, own in (content["stages_over_trainings"] or {}).items()
        for stage in own["by_stage"]
    ]
    return table(["Stage", *_heads(STAGES)], rows) if rows else Html()


def by_members(content: Content) -> Html:
    """Costs and gains of the first 1, 2, … J members of each ensemble that has several; empty if none has."""
    rows = [
        [
            Cell(f"{title_of(name)}, {step['members']}", color=color_of(name)),
            *(number(step[shown.path], shown.style, spread=shown not in _ONE_VALUE) for shown in OF_MEMBERS),
        ]
        for name, own in content["ensembles"].items()
        if len(own["by_members"]) > 1 and own["by_members"][-1]["added_explained_variance"]["mean"] is not None
        for step in own["by_members"]
    ]
    return table(["First members", *_heads(OF_MEMBERS)], rows) if rows else Html()


def truth_differences(content: Content) -> Html:
    """What ensembles find of a known dictionary more than others, one row a pair."""
    rows = [
        [
            Cell(f"{title_of(row['ensemble'])} − {title_of(row['other'])}", color=color_of(row["ensemble"])),
            *(number(row[key], signed) for key in COMPARED),
        ]
        for row in content["truth"]["differences"]
    ]
    return table(["Difference", *_heads(COMPARED.values())], rows)


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
