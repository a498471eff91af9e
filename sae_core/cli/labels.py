"""The commands labels export and labels import."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sae_core.cli import console
from sae_core.cli.common import Labels, RunPath
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine import environment as variables
from sae_core.foundation.run import Run

if TYPE_CHECKING:
    from sae_core.labels import ImportPlan

app = typer.Typer(help="Export people's labels to CSV, or import them.", no_args_is_help=True)
_LISTED = 20


Existing = Literal["keep", "replace"]
"""What to do with stored labels that differ from the file's."""


@app.command("export")
def export_labels(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="The CSV file to write; standard output by default.")] = None,
    labels: Labels = None,
) -> None:
    """Write all labels as CSV, with feature, text, author and time, and the source of a propagated label."""
    from sae_core.foundation.files.whole_files import write_text
    from sae_core.labels import labels_of

    csv = labels_of(Run.open(run), labels).to_csv()
    if out is None:
        sys.stdout.write(csv)
    else:
        write_text(out, csv)
        console.say(f"Wrote {out}.")


@app.command("import")
def import_labels(
    run: RunPath,
    file: Annotated[Path, typer.Argument(help="A CSV file with the columns that export writes.")],
    existing: Annotated[
        Existing | None,
        typer.Option(help="What to do with stored labels that differ from the file's; needed if any do."),
    ] = None,
    labels: Labels = None,
) -> None:
    """Read labels from CSV, all or none; stored labels are replaced only with --existing replace."""
    from sae_core.foundation.files.whole_files import read_object
    from sae_core.labels import labels_of, plan_import, read_label_file

    opened = Run.open(run)
    widths = {folder.name: read_object(folder.manifest, widths=list)["widths"] for folder in opened.ensembles()}
    store = labels_of(opened, labels)
    plan = plan_import(store, read_label_file(file), widths)
    for remark in plan.remarks:
        console.say(remark)
    if plan.differing and existing is None:
        _list_differing(plan)
        raise UserError(
            f"{_labels(len(plan.differing))} of {file} would replace another one; nothing is imported. Call it again "
            "with --existing keep or --existing replace."
        )
    edits = plan.edits(replace=[] if existing == "keep" else None)
    saved = store.save(edits, author=_user(), kind="import", text=file.name)
    if saved.conflicts:
        raise UserError("Somebody has changed these labels just now; nothing is imported. Call it again.")
    kept = len(plan.differing) if existing == "keep" else 0
    rest = [f"{count} {what}" for count, what in ((plan.same, "were there"), (kept, "were kept")) if count]
    console.say(f"Imported {_labels(saved.changed)}{'; ' + ', '.join(rest) if rest else ''}.")


def _list_differing(plan: ImportPlan) -> None:
    for one in plan.differing[:_LISTED]:
        place = f"{one.there.ensemble}, feature {one.there.feature}"
        console.say(f"{place}: there {one.there.label!r} by {one.there.author!r}, in the file {one.wanted.label!r}")
    if len(plan.differing) > _LISTED:
        console.say(f"and {len(plan.differing) - _LISTED} more")


def _labels(count: int) -> str:
    return f"{count} label{'' if count == 1 else 's'}"


def _user() -> str:
    """The importing person: the name in the environment, as for the dashboard, else the account's name."""
    try:
        return os.environ.get(variables.AUTHOR) or getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, as in containers
        return "anonymous"
