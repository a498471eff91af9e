"""The command report: write the results of a run, or of several seeds, as a page and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sae_core.cli import console
from sae_core.cli.options import AsJson
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import report_page


def report(
    path: Annotated[
        Path, typer.Argument(help="A run folder, or a folder of runs with several seeds.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page to write, ending in .html; report.html in that folder by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a report: a page that needs no network (.html), and the same figures beside it (.json).

    For several seeds, the report gives means and intervals over seeds. For a sweep, it covers the setting that the
    sweep's rule chooses.
    """
    if out is not None and out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {out} does not end in .html; name the page, and its figures are written beside it.")
    from sae_core.report.build import write_report

    page = out or report_page(path)
    content = write_report(path, page)
    if as_json:
        console.print_json(content)
        return
    console.say(content["decision"]["headline"])
    console.say(f"Wrote {page} and {page.with_suffix('.json')}.")
