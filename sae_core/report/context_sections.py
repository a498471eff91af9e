"""Sections of the page on what the figures were made with: the settings of a sweep, seeds, versions."""

from __future__ import annotations

import json

from sae_core.analysis.shared.names_in_tables import CONTROL
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import moment, seconds
from sae_core.report.html import Cell, Column, Html, element, folded, joined, number, table
from sae_core.report.style import color_of
from sae_core.report.tables import Content
from sae_core.runs.sweep.results import columns_of, shows_interval


def sweep(content: Content) -> Html:
    """The settings that were compared."""
    results = content["sweep"]
    if not results:
        return Html()
    columns = columns_of(results)
    names = [name for name in results["varied"] if name != "training.seed"]
    rows = [
        [
            Cell(", ".join(f"{name.partition('.')[2]} = {row['values'][name]}" for name in names) or "–"),
            Cell(title_of(row["ensemble"]), color=color_of(row["ensemble"])),
            Cell(str(row["seeds"])),
            *(number(row["figures"].get(shown.row), shown.style, spread=shows_interval(shown)) for shown in columns),
        ]
        for row in results["settings"]
    ]
    heads: list[str | Column] = ["Setting", Column("Ensemble", prose=True), "Seeds"]
    for shown in columns:
        title = shown.column.strip()
        is_control = shown.row.startswith("control_")
        heads.append(Column(title[:1].upper() + title[1:], CONTROL if is_control else shown.definition))
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
