"""The commands labels export and labels import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sae_core import console
from sae_core.commands.common import RunPath
from sae_core.run import Run

app = typer.Typer(help="Export people's labels to CSV, or import them.", no_args_is_help=True)


@app.command("export")
def export_labels(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="The CSV file to write; standard output if not given.")] = None,
) -> None:
    """Write all labels as CSV: run, ensemble, member, feature, label, note, author, time."""
    from sae_core.browse.labels import LabelStore
    from sae_core.files import write_text

    opened = Run.open(run)
    csv = LabelStore(opened.labels, opened.name).to_csv()
    if out is None:
        sys.stdout.write(csv)
    else:
        write_text(out, csv)
        console.say(f"Wrote {out}.")


@app.command("import")
def import_labels(
    run: RunPath, file: Annotated[Path, typer.Argument(help="A CSV file with the columns that export writes.")]
) -> None:
    """Read labels from CSV, all or none; a label that is already there is replaced."""
    from sae_core.browse.labels import LabelStore
    from sae_core.files import read_json, read_text

    opened = Run.open(run)
    widths = {folder.name: read_json(folder.manifest)["widths"] for folder in opened.ensembles()}
    count = LabelStore(opened.labels, opened.name).from_csv(read_text(file), widths)
    console.say(f"Imported {count} labels.")
