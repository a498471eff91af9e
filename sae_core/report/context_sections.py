"""Sections of the page on what the figures were made with: the settings of a sweep, seeds, versions."""

from __future__ import annotations

import json

from sae_core.analysis.concepts.figures import detection
from sae_core.analysis.cost.figures import TRAIN_SECONDS
from sae_core.analysis.reconstruction.figures import CONTROL_EXPLAINED, DEAD, EXPLAINED_VARIANCE, L0
from sae_core.analysis.shared.names_in_tables import CONTROL
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import moment, seconds
from sae_core.report.html import Cell, Column, Html, element, folded, joined, number, table
from sae_core.report.style import color_of
from sae_core.report.tables import Content

_FIVE, _FIVE_OF_CONTROL = detection(5), detection(5, control=True)
COMPARED = (EXPLAINED_VARIANCE, CONTROL_EXPLAINED, L0, DEAD, _FIVE, _FIVE_OF_CONTROL, TRAIN_SECONDS)
WITH_INTERVALS = (EXPLAINED_VARIANCE, CONTROL_EXPLAINED, _FIVE, _FIVE_OF_CONTROL)


def sweep(content: Content) -> Html:
    """The settings that were compared."""
    results = content["sweep"]
    if not results:
        return Html()
    names = [name for name in results["varied"] if name != "training.seed"]
    rows = [
        [
            Cell(", ".join(f"{name.partition('.')[2]} = {row['values'][name]}" for name in names) or "–"),
            Cell(title_of(row["ensemble"]), color=color_of(row["ensemble"])),
            Cell(str(row["seeds"])),
            *(number(row["figures"].get(each.row), each.style, spread=each in WITH_INTERVALS) for each in COMPARED),
        ]
        for row in results["settings"]
    ]
    heads: list[str | Column] = [
        "Setting",
        Column("Ensemble", prose=True),
        "Seeds",
        "Explained variance",
        Column(RANDOM_STAGES, CONTROL),
    ]
    heads += ["L0", "Dead", Column("Detection, 5", _FIVE.definition), Column(RANDOM_STAGES, CONTROL), "Training"]
    subject = ", ".join(run["name"] for run in content["runs"])
    return joined(
        element("p", results["choice"]["sentence"]),
        element("p", f"The rest of this report is about: {subject}.", kind="sub"),
        table(heads, rows),
    )


def provenance(content: Content) -> Html:
    """Settings, seeds, versions."""
    runs = content["runs"]
    rows = [
        [
            Cell(run["name"]),
            Cell(str(run["seed"])),
            Cell(moment(str(run["created"]))),
            Cell(str(run["fingerprint"] or "–")),
            Cell(", ".join(run["devices"]) or "–"),
            Cell(seconds(run["evaluation_seconds"])),
        ]
        for run in runs
    ]
    versions = [[Cell(name), Cell(str(version))] for name, version in runs[0]["versions"].items()]
    settings = json.dumps(content["settings"], indent=2, ensure_ascii=False)
    return joined(
        table(
            ["Run", "Seed", "Created", Column("Activations", prose=True), Column("Devices", prose=True), "Evaluation"],
            rows,
        ),
        folded("All settings", element("pre", settings)),
        folded("Versions", table(["", Column("Version", prose=True)], versions)),
    )
