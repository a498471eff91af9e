"""The page by which a hub introduces a run: what it is, its figures with intervals, and how to load it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from sae_core.activations.origins.text.hub import is_hub_id
from sae_core.analysis.figures import OVERVIEW
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import MISSING
from sae_core.foundation.run import Run
from sae_core.report.controls import rows_of
from sae_core.report.gather import gather
from sae_core.report.html import number
from sae_core.report.runs import find_subject

TAGS = ("sae-ensemble", "sparse-autoencoder", "interpretability")
PAPER = "[Ensembling Sparse Autoencoders](https://arxiv.org/abs/2505.16077)"


def model_card(run: Run, repository: str) -> str:
    """Markdown, with the lines in front by which a hub sorts what it holds.

    Args:
        run: A run with at least one trained ensemble.
        repository: Its name on the hub, for the commands that fetch it.
    """
    settings = run.settings
    names = [folder.name for folder in run.ensembles()]
    front: dict[str, Any] = {"library_name": "sae-ensemble", "tags": list(TAGS)}
    if settings.origin.reads_text and not settings.model.is_embedded and is_hub_id(settings.model.name):
        front["base_model"] = settings.model.name
    lines = [
        "---",
        # JSON is YAML, and needs no thought about which texts must be quoted.
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        f"# {_text(run.name)}",
        "",
        f"Ensembles of sparse autoencoders ({', '.join(map(_text, names))}), trained on "
        f"{_text(settings.origin.described(settings))}. Method: {PAPER}.",
        "",
        "## Figures",
        "",
        *_table(run),
        "",
        "## Load",
        "",
        "```",
        f"sae-ensemble pull {repository} {shlex.quote(run.name)}",
        f"sae-ensemble dashboard {shlex.quote(run.name)}",
        "```",
        "",
        "```python",
        "from pathlib import Path",
        "from sae_core import Run, load_ensemble",
        "",
        f"ensemble = load_ensemble(Run.open(Path({run.name!r})).ensemble({names[0]!r}))",
        "coefs = ensemble.encode(acts)  # acts is [batch, dimension]",
        "```",
        "",
        "Every member is a folder in SAELens' format (`ensembles/<name>/member_00`).",
        "",
        "## Settings",
        "",
        "```json",
        # A backquote could end the block.
        json.dumps(settings.model_dump(mode="json"), indent=2, ensure_ascii=False).replace("`", "\\u0060"),
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(run: Run) -> Iterator[str]:
    """A row an ensemble, and below a boosted one its control; the 95 % intervals stand in brackets."""
    try:
        ensembles: Mapping[str, Mapping[str, Any]] = gather(find_subject(run.path))["ensembles"]
    except UserError:  # nothing is evaluated yet
        ensembles = {}
    there = [shown for shown in OVERVIEW if any(shown.key in own["figures"] for own in ensembles.values())]
    if not there:
        yield "Nothing was measured before this was published."
        return
    yield f"| ensemble | {' | '.join(_text(shown.overview) for shown in there)} |"
    yield f"|---|{'---|' * len(there)}"
    for title, _, own in rows_of(ensembles, there):
        cells = [number(own.get(shown.key), shown.style, spread=shown.spread) for shown in there]
        written = [f"{cell.text} ({cell.small})" if cell.small else cell.text or MISSING for cell in cells]
        yield f"| {_text(title)} | {' | '.join(map(_text, written))} |"


def _text(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
