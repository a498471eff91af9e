"""The command truth: train on activations from known dictionaries, and score which true features are found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sae_core.activations.origins.known import Known
from sae_core.cli import console
from sae_core.cli.common import MOST_SEEDS, command_line, stoppable
from sae_core.cli.options import AsJson, Assignments, ConfigPath, parse_assignments
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run, is_run, seed_folder
from sae_core.foundation.settings.bounds import LARGEST_SEED
from sae_core.foundation.settings.reading import load_settings
from sae_core.runs import pipeline

SIZES: Mapping[str, Mapping[str, Any]] = {
    "small": {
        "data.train_tokens": 100_000,
        "data.evaluation_tokens": 20_000,
        "sae.width": 256,
        "sae.k": 8,
        "sae.dead_after_tokens": 50_000,
        "training.tokens": 300_000,
        "training.batch_size": 512,
        "training.learning_rate": 4e-3,
    },
    "medium": {
        "truth.features": 4096,
        "truth.dimension": 256,
        "truth.active": 16.0,
        "truth.topics": 32,
        "data.train_tokens": 1_000_000,
        "sae.width": 2048,
        "sae.k": 16,
        "training.tokens": 3_000_000,
    },
    "large": {
        "truth.features": 16_384,
        "truth.dimension": 768,
        "truth.active": 32.0,
        "truth.topics": 128,
        "data.train_tokens": 50_000_000,
        "data.storage": "stream",
        "sae.width": 8192,
        "sae.k": 32,
        "sae.dead_after_tokens": 1_000_000,
        "training.tokens": 50_000_000,
        "training.batch_size": 4096,
        "training.learning_rate": 3e-4,
    },
}
"""Settings by size: seconds, some minutes, or hours (on a GPU) per seed and ensemble. An SAE has half as many features
as there are true features, since on a real model nobody knows the true number."""


def truth(
    path: Annotated[Path, typer.Argument(metavar="RUNS", help="Folder of the runs, one per seed.", show_default=False)],
    size: Annotated[str, typer.Option(help=f"The settings to start from: {', '.join(SIZES)}.")] = "small",
    seeds: Annotated[
        int, typer.Option(min=1, max=MOST_SEEDS, help="Number of seeds, each with its own dictionary and data.")
    ] = 5,
    config: ConfigPath = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Rank the ensembles on a known truth: train them on activations from known dictionaries and score them.

    A second call continues the work; with more seeds it adds the missing ones.
    """
    runs = _open(path, size, seeds, config, assignments)
    with stoppable(command_line("truth", path, "--seeds", seeds)), console.drawn_progress() as progress:
        facts = pipeline.score_truth(path, runs, progress=progress)
    if as_json:
        console.print_json(facts)
        return
    from sae_core.analysis.shared.names_in_tables import COVERED
    from sae_core.analysis.truth.over_seeds import as_text, differences_as_text

    rows = [as_text(name, figures) for name, figures in facts["ensembles"].items()]
    known = facts["truth"]
    title = f"{known['features']} true features in {known['dimension']} dimensions, seeds {seeds}: {path}"
    console.print_rows(rows, title=title)
    apart = differences_as_text(facts["ensembles"])
    console.print_rows(
        apart, title="Above random dictionaries of their sizes, one SAE and random stages, in points (1/100)"
    )
    if facts["interval"] == "bootstrap":
        console.say(COVERED)


def _open(path: Path, size: str, seeds: int, config: Path | None, assignments: list[str] | None) -> list[Run]:
    """Open or make a run for each seed. Settings not given come from an existing run."""
    if is_run(path):
        raise UserError(
            f"{path} is itself a run, so the runs of several seeds cannot lie in it; choose another folder."
        )
    if size not in SIZES:
        raise UserError(f"--size {size} is not known; use one of {', '.join(SIZES)}.")
    given = parse_assignments(assignments)
    begun = sorted(path.glob("seed_*/run.json"))
    if begun:
        base = Run.open(begun[0].parent).settings
        start = base.training.seed
        settings = load_settings(config, given, base=base)
        if settings.training.seed != start:
            raise UserError(f"The runs in {path} begin with seed {start}; choose another folder for other seeds.")
    else:
        chosen = {**SIZES[size], "origin.kind": Known().kind}
        settings = load_settings(config, given, base=load_settings(overrides=chosen))
        start = settings.training.seed
    if start + seeds - 1 > LARGEST_SEED:
        raise UserError(f"--seeds {seeds} from seed {start} on goes beyond {LARGEST_SEED}; begin with a smaller seed.")
    runs = []
    for seed in range(start, start + seeds):
        training = settings.training.model_copy(update={"seed": seed})
        runs.append(Run.create(seed_folder(path, seed), settings.model_copy(update={"training": training})))
    return runs
