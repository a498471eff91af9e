"""HTML with which a notebook shows an ensemble, an evaluation and a feature; every text in it is escaped."""

from __future__ import annotations

import pandas as pd

from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.colours import member_color
from sae_core.foundation.methods import headed
from sae_core.foundation.numbers import decimal, percent, whole
from sae_core.report.html import Cell, Column, Html, element, joined
from sae_core.report.pieces.cards import chip, heading, muted, table, tile, tiles
from sae_core.report.pieces.style import notebook_style

MEMBERS_SHOWN = 16


def shown(*blocks: Html) -> str:
    """Blocks of HTML with their style sheet, for a notebook."""
    return notebook_style() + joined(*blocks)


def ensemble_html(ensemble: Ensemble, curves: pd.DataFrame | None) -> str:
    """An ensemble: its method, its members and what training came to."""
    staged = ensemble.is_staged
    saes = list(ensemble.saes())
    names = ", ".join(sorted({sae.architecture for sae in saes}))
    facts = [
        tile("Members", whole(len(ensemble)), "one after another" if staged else "side by side"),
        tile("Features", whole(ensemble.width), names),
        tile("Dimension", whole(ensemble.d_in), "of the activations"),
        tile("Parameters", whole(sum(parameter.numel() for parameter in ensemble.parameters()))),
    ]
    last = None if curves is None or curves.empty else curves.groupby("member").last()
    columns = [
        "Stage" if staged else "Member",
        Column("Architecture", prose=True),
        "Features",
        Column("α", "Weight of its reconstruction"),
    ]
    if last is not None:
        columns += [
            Column("Explained variance", "In training, on what the member itself learns: its last recorded steps"),
            Column("L0", "Active features of an activation"),
            Column("Dead", "Share of features that have not fired for long, at the end of training"),
        ]
    rows, first = [], 0
    for number, (weight, member) in enumerate(zip(ensemble.weights, ensemble, strict=True)):
        inner = len(list(member.saes())) if hasattr(member, "saes") else 1
        name = getattr(member, "architecture", f"{inner} SAEs")
        row = [Cell(str(number), color=member_color(number)), Cell(name), Cell(whole(member.width))]
        row.append(Cell(decimal(weight)))
        if last is not None:
            own = last.loc[first : first + inner - 1].mean(numeric_only=True)
            row += [Cell(percent(own["explained_variance"])), Cell(decimal(own["l0"], 1)), Cell(percent(own["dead"]))]
        rows.append(row)
        first += inner
    more = len(rows) - MEMBERS_SHOWN
    below = [element("p", muted(f"and {more} more"), kind="sae")] if more > 0 else []
    title = heading(headed(ensemble.method), "", [chip(f"{ensemble.wiring} wiring")])
    return shown(title, tiles(facts), table(columns, rows[:MEMBERS_SHOWN]), *below)
