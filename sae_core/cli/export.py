"""The command export: write an ensemble for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sae_core.cli import console
from sae_core.cli.common import RunPath
from sae_core.cli.options import AsJson
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import decimal, percent
from sae_core.foundation.run import Run


def export(
    run: RunPath,
    folder: Annotated[Path, typer.Argument(help="A new folder.", show_default=False)],
    ensemble: Annotated[str, typer.Option(help="The ensemble of RUN.")] = "bagged",
    one: Annotated[
        bool,
        typer.Option(
            "--one",
            help="Write one SAE also of a bag that keeps the k largest of each member: a threshold for each member "
            "takes their place, and the difference is measured on held-out activations.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write an ensemble for other tools: as one SAE in SAELens' format where it is one, else its members in order."""
    from sae_core.ensembles.ensemble import load_ensemble
    from sae_core.ensembles.exporting import as_one, export_members, export_one, is_one

    opened = Run.open(run)
    there = opened.ensemble(ensemble)
    if not there.manifest.exists():
        names = ", ".join(each.name for each in opened.ensembles()) or "it has none"
        raise UserError(f"{run} has no ensemble called {ensemble}; choose one of its ensembles ({names}).")
    loaded = load_ensemble(there)
    facts: dict[str, Any] = {"ensemble": ensemble, "folder": str(folder), "features": loaded.width}
    if is_one(loaded):
        export_one(as_one(loaded), folder)
        facts["form"] = "one SAE, exactly"
    elif one:
        from sae_core.analysis.reconstruction.exported import one_with_thresholds

        sae, differences = one_with_thresholds(opened, loaded)
        export_one(sae, folder)
        facts |= {"form": "one SAE, with thresholds for the k largest", **differences}
    else:
        export_members(loaded, folder)
        facts["form"] = "members in their order, with load.py"
    if as_json:
        console.print_json(facts)
        return
    console.say(f"Wrote {ensemble} to {folder}: {facts['form']}.")
    if "explained_variance" in facts:
        console.say(
            f"On {facts['tokens']:,} held-out activations it explains {percent(facts['explained_variance'], 2)}, the "
            f"ensemble {percent(facts['ensemble_explained_variance'], 2)}; {decimal(facts['l0'])} features are active, "
            f"of the ensemble {decimal(facts['ensemble_l0'])}; {percent(facts['agreeing'], 1)} of the ensemble's "
            "active features are active in it."
        )
