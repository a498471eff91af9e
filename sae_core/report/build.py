"""Writing a report: one page that needs nothing else, and the same figures as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_core.foundation.files.whole_files import write_json, write_text
from sae_core.foundation.numbers import compact, moment
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.foundation.settings.reading import parse_settings
from sae_core.report import context_sections as context
from sae_core.report import detection_sections as detection
from sae_core.report import reconstruction_sections as parts
from sae_core.report import wording as texts
from sae_core.report.gather import gather
from sae_core.report.html import Html, contents, definitions, element, items, joined, page, questions, section
from sae_core.report.runs import find_subject

SECTIONS = {
    "settings-compared": ("Settings compared", context.sweep),
    "reconstruction": ("Reconstruction", parts.reconstruction),
    "dictionary": ("Dictionary", parts.dictionary),
    "concepts": ("Concept detection", detection.concepts),
    "truth": ("Known truth", detection.truth),
    "spurious": ("Spurious correlations", detection.spurious),
    "cost": ("Cost", parts.cost),
    "definitions": ("Definitions", lambda content: definitions(texts.DEFINITIONS)),
    "limits": ("Limits", lambda content: items(texts.LIMITS)),
    "settings": ("Settings, seeds and versions", context.provenance),
}
"""By their anchors, titles and what makes them; those that come out empty are left out."""


def write_report(path: Path, out: Path) -> dict[str, Any]:
    """Write a report as ``out`` (HTML) and beside it with the ending .json.

    Args:
        path: A run, or a folder of runs with several seeds.
        out: The page.

    Returns:
        The content of the JSON file.

    Raises:
        UserError: If there is nothing to report.
    """
    content = gather(find_subject(path))
    html = render(content)
    write_json(out.with_suffix(".json"), content)
    write_text(out, html)
    return content


def render(content: Mapping[str, Any]) -> str:
    """The page, from what `gather` gives.

    Args:
        content: The figures.
    """
    made = {anchor: (title, make(content)) for anchor, (title, make) in SECTIONS.items()}
    made = {anchor: (title, text) for anchor, (title, text) in made.items() if text}
    links = contents({anchor: title for anchor, (title, _) in made.items()})
    body = (section(title, anchor, text) for anchor, (title, text) in made.items())
    return page(f"Report: {content['name']}", joined(_first(content, links), *body))


def _first(content: Mapping[str, Any], links: Html) -> Html:
    """The page for those who decide."""
    decision = content["decision"]
    return element(
        "div",
        element("h1", content["name"]),
        element("p", _story(content), kind="sub"),
        element("p", decision["headline"], kind="headline"),
        questions(texts.ANSWERS, decision),
        links,
        kind="first",
    )


def _story(content: Mapping[str, Any]) -> str:
    settings, seeds = content["settings"], [run["seed"] for run in content["runs"]]
    sae = settings["sae"]
    seeded = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    trained = f"{compact(settings['training']['tokens'])} training tokens a member, {seeded}"
    written = f"Written {moment(content['created'])}."
    k = f", k = {sae['k']}" if fixes_l0(sae["architecture"]) else ""
    what = f"{sae['architecture']} SAEs with {sae['width']:,} features a member{k}"
    run = parse_settings(settings, origin="the report", stored=True)
    return f"{what} on {run.origin.described(run)}; {trained}. {written}"
