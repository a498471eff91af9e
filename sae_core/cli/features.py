"""The command features: write features of an ensemble in the JSON that Neuronpedia reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sae_core.cli import console
from sae_core.cli.common import RunPath
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbering import feature_at, named
from sae_core.foundation.run import Run


def features(
    run: RunPath,
    ensemble: Annotated[str, typer.Option(help="Name of the ensemble.", show_default=False)],
    chosen: Annotated[
        str,
        typer.Option(
            "--features",
            metavar="N,N,…",
            help="Numbers in the ensemble, or member and number within it, as 3:17.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The JSON file to write; standard output by default.")] = None,
    model_id: Annotated[str | None, typer.Option(help="What Neuronpedia calls the model.", show_default=False)] = None,
    sae_set: Annotated[str | None, typer.Option(help="What it calls the set of SAEs.", show_default=False)] = None,
) -> None:
    """Write features with their examples, histogram and promoted tokens as SAEDashboard does, for Neuronpedia."""
    from sae_core.ensembles.manifest import read_manifest
    from sae_core.foundation.files.whole_files import write_json
    from sae_core.report.neuronpedia import neuronpedia_batch

    opened = Run.open(run)
    if ensemble not in (names := [folder.name for folder in opened.ensembles()]):
        raise UserError(f"{opened.path} has no ensemble {ensemble!r}; it has {', '.join(names) or 'none yet'}.")
    widths = read_manifest(opened.ensemble(ensemble)).widths
    numbers = [_number(word.strip(), widths) for word in chosen.split(",")]
    batch = neuronpedia_batch(opened, ensemble, numbers, model_id=model_id, sae_set=sae_set)
    if out is None:
        console.print_json(batch)
    else:
        write_json(out, batch)
        console.say(f"Wrote {len(numbers)} features to {out}.")


def _number(word: str, widths: Sequence[int]) -> int:
    """The number in the ensemble that a word of ``--features`` means."""
    place = named(word)
    if place is not None and place[0] < len(widths) and place[1] < widths[place[0]]:
        return feature_at(*place, widths)
    if place is None and word.isascii() and word.isdigit() and int(word) < sum(widths):
        return int(word)
    raise UserError(
        f"There is no feature {word[:40]!r}; give numbers from 0 to {sum(widths) - 1}, or as 0:{widths[0] - 1}."
    )
