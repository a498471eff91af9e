"""The command map: map the atoms of two ensembles together, for the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.cli import console
from sae_core.cli.common import RunPath, command_line, stoppable, trained_runs
from sae_core.cli.options import AsJson
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run


def joint_map(
    run: RunPath,
    ensemble: Annotated[str, typer.Option(help="The ensemble of RUN to show on the left.")],
    other: Annotated[str, typer.Option(help="The ensemble to show on the right.")],
    other_run: Annotated[
        Path | None, typer.Option(help="The run of the right ensemble if not RUN, of the same model and layer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Map the atoms of two ensembles together (one UMAP of both), so that the dashboard shows them side by side."""
    left, right = _one(run, ensemble), _one(other_run or run, other)
    from sae_core.analysis.atoms.joint_map import Side, joint_map_path, make_joint_map
    from sae_core.analysis.shared.names_in_tables import THRESHOLD

    sides = Side(left, ensemble), Side(right, other)
    if ensemble == other and left.path.resolve() == right.path.resolve():
        raise UserError(f"Both sides are the ensemble {ensemble} of {run}; give another --other or --other-run.")
    words = ["map", run, "--ensemble", ensemble, "--other", other]
    words += ["--other-run", other_run] if other_run else []
    with stoppable(command_line(*words)), console.drawn_progress() as progress:
        table = make_joint_map(*sides, progress=progress)
    alone = table[table["cosine"] < THRESHOLD].groupby("side").size().reindex([0, 1], fill_value=0)
    facts = {
        "path": str(joint_map_path(*sides)),
        "atoms": len(table),
        "clusters": int(table["cluster"].max()) + 1,
        "alone": [int(count) for count in alone],
    }
    if as_json:
        console.print_json(facts)
        return
    console.say(
        f"Mapped {len(table):,} atoms in {facts['clusters']} clusters; {alone[0]:,} of {ensemble} and {alone[1]:,} of "
        f"{other} have no atom of cosine ≥ {THRESHOLD} on the other side."
    )
    console.say(f"Next: {command_line('dashboard', run if other_run is None else run.parent)}")


def _one(path: Path, ensemble: str) -> Run:
    opened = trained_runs(path)
    if len(opened) > 1:
        raise UserError(f"{path} holds {len(opened)} runs; give the folder of one of them.")
    names = [folder.name for folder in opened[0].ensembles()]
    if ensemble not in names:
        raise UserError(f"{path} has no ensemble called {ensemble}; choose one of: {', '.join(names)}.")
    return opened[0]
