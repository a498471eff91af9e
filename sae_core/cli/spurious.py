"""The command spurious: measure how well ablating features removes a spurious correlation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sae_core.cli import console
from sae_core.cli.common import MOST_SEEDS, RunPath, command_line, print_by_run, stoppable, trained_runs
from sae_core.cli.options import AsJson
from sae_core.foundation.errors import UserError

if TYPE_CHECKING:
    from sae_core.analysis.spurious.tasks import Columns


def spurious(
    run: RunPath,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="biographies (generated), docstrings (of the embedded text) or bias_in_bios (from the hub); "
            "repeatable. The first two by default."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A CSV, JSONL or Parquet file of texts, by default with Bias in Bios' columns.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of --file that holds the text.")] = "hard_text",
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=A,B",
            help="Column of --file that holds the target, and its two values; profession=13,21 by default. Where the "
            "run's activations are arrays with a table of rows, one of its labels.",
        ),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=A,B",
            help="The same for the spurious attribute: A goes with A, B with B; gender=1,0 by default.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_SEEDS,
            help="Number of seeds; up to five share no texts if there are enough texts.",
        ),
    ] = 5,
    retrain: Annotated[bool, typer.Option("--retrain", help="Also train the probe again after each ablation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ablate the features that tie a probe to a spurious attribute (SHIFT, SCR), and measure the accuracy that is left.

    The training texts have the attribute together with the target; the test texts do not.
    """
    columns = _columns(text_column, target, attribute) if file or target or attribute else None
    opened = trained_runs(run)
    from sae_core.analysis.spurious.runs import evaluate_spurious, make_tasks, require_tasks

    with stoppable(command_line("spurious", run)), console.drawn_progress() as progress:
        # Check all tasks first, so that a fault in one is reported before any is measured.
        asked = [make_tasks(each, task or [], file, columns) for each in opened]
        for each, tasks in zip(opened, asked, strict=True):
            require_tasks(each, tasks)
        found = {
            each.name: evaluate_spurious(each, tasks, seeds=range(seeds), retrain=retrain, progress=progress)
            for each, tasks in zip(opened, asked, strict=True)
        }
    if as_json:
        print_by_run(found)
        return
    for figures in found.values():
        for facts in figures:
            _print(facts)


def _columns(text: str, target: str | None, attribute: str | None) -> Columns:
    from sae_core.analysis.spurious.tasks import Columns

    target_column, target_values = _column("--target", target or "profession=13,21")
    attribute_column, attribute_values = _column("--attribute", attribute or "gender=1,0")
    return Columns(text, target_column, target_values, attribute_column, attribute_values)


def _column(option: str, given: str) -> tuple[str, tuple[str, str]]:
    """Parse ``profession=13,21`` as a column and its two values."""
    column, _, values = given.rpartition("=")
    parts = [value.strip() for value in values.split(",")]
    if not column or len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
        raise UserError(f"{option} {given} is not of the form COLUMN=A,B, e.g. {option} profession=13,21.")
    return column, (parts[0], parts[1])


def _print(facts: dict[str, Any]) -> None:
    from sae_core.activations.origins.text.asked import what_was_read
    from sae_core.analysis.shared.names_in_tables import texts_in_words
    from sae_core.analysis.spurious.removal import as_text

    target, spurious = (" or ".join(facts[label][::-1]) for label in ("target", "spurious"))
    console.print_rows(as_text(facts), title=f"{facts['task']}: T is {target}, S {spurious}")
    console.say(facts["description"])
    console.say(f"Means over {texts_in_words(facts)}.")
    if read := what_was_read(facts.get("read", {})):
        console.say(read)
