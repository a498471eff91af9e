"""Sections of the page on what the figures were made with: the settings of a sweep, seeds, versions."""

from __future__ import annotations

import json

from sae_core.analysis.shared.terms import CONTROL
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import moment, seconds
from sae_core.report.columns import percents, plain
from sae_core.report.html import Cell, Head, element, folded, joined, number, table
from sae_core.report.parts import Content

_DETECTED = (
    "Mean accuracy of detecting a concept with the best 5 standardised features; the confounded task is left out"
)


def sweep(content: Content) -> str:
    """The settings that were compared."""
    results = content["sweep"]
    if not results:
        return ""
    names = [name for name in results["varied"] if name != "training.seed"]
    rows = [
        [
            Cell(", ".join(f"{name.partition('.')[2]} = {row['values'][name]}" for name in names) or "–"),
            Cell(title_of(row["ensemble"]), wide=True, method=row["ensemble"]),
            Cell(str(row["seeds"])),
            number(row["figures"]["explained_variance"], percents(2)),
            number(row["figures"].get("control_explained_variance"), percents(2)),
            number(row["figures"]["l0"], plain(1), spread=False),
            number(row["figures"]["dead_fraction"], percents(), spread=False),
            number(row["figures"].get("concept_accuracy_5_standardised"), percents()),
            number(row["figures"].get("control_concept_accuracy_5_standardised"), percents()),
            number(row["figures"]["train_seconds"], seconds, spread=False),
        ]
        for row in results["settings"]
    ]
    heads: list[str | Head] = ["Setting", "Ensemble", "Seeds", "Explained variance", Head(RANDOM_STAGES, CONTROL)]
    heads += ["L0", "Dead", Head("Detection, 5", _DETECTED), Head(RANDOM_STAGES, CONTROL), "Training"]
    subject = ", ".join(run["name"] for run in content["runs"])
    return joined(
        element("p", results["choice"]["sentence"]),
        element("p", f"The rest of this report is about: {subject}.", "sub"),
        table(heads, rows),
    )


def provenance(content: Content) -> str:
    """Settings, seeds, versions."""
    runs = content["runs"]
    rows = [
        [
            Cell(run["name"]),
            Cell(str(run["seed"])),
            Cell(moment(str(run["created"]))),
            Cell(str(run["fingerprint"] or "–"), wide=True),
            Cell(", ".join(run["devices"]) or "–", wide=True),
            Cell(seconds(run["evaluation_seconds"])),
        ]
        for run in runs
    ]
    versions = [[Cell(name), Cell(str(version), wide=True)] for name, version in runs[0]["versions"].items()]
    settings = json.dumps(content["settings"], indent=2, ensure_ascii=False)
    return joined(
        table(["Run", "Seed", "Created", "Activations", "Devices", "Evaluation"], rows),
        folded("All settings", element("pre", settings)),
        folded("Versions", table(["", "Version"], versions)),
    )
