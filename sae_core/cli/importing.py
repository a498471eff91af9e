"""The commands import and compare: bring SAEs that others trained into a run, and compare them there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sae_core.activations.stages import CORPUS
from sae_core.cli import console
from sae_core.cli.common import RunPath, command_line, settings_for, stoppable
from sae_core.cli.options import AsJson, Chosen, takes_settings
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.spreadsheets import write_rows
from sae_core.foundation.files.whole_files import write_text
from sae_core.foundation.methods import EXTENDED, GIVEN
from sae_core.foundation.numbers import MISSING, decimal, interval, percent
from sae_core.foundation.origin import Words
from sae_core.foundation.run import Run, is_run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs import pipeline

if TYPE_CHECKING:
    from sae_core.runs.given import Given

Saes = Annotated[
    list[str],
    typer.Argument(
        metavar="SAE…",
        help="SAEs: folders, files or ids on the hub (OWNER/NAME or OWNER/NAME/FOLDER) of SAELens, "
        "dictionary_learning, sparsify, Gemma Scope or Llama Scope; or ensembles of this package.",
        show_default=False,
    ),
]
Name = Annotated[str, typer.Option("--as", metavar="NAME", help="What the ensemble is called in the run.")]
Wired = Annotated[
    Literal["parallel", "residual"] | None,
    typer.Option(
        help="parallel (every SAE reads the activation; reconstructions are averaged) or residual (each reads what "
        "those before it leave; reconstructions are added). Default: parallel.",
        show_default=False,
    ),
]


@takes_settings
def import_saes(
    run: RunPath,
    saes: Saes,
    chosen: Chosen,
    name: Name = GIVEN,
    wiring: Wired = None,
    as_json: AsJson = False,
) -> None:
    """Bring SAEs that others trained into a run, as an ensemble. A new run gets the model and layer that they say."""
    opened, facts = bring_in(run, saes, chosen, name, wiring)
    if as_json:
        console.print_json(facts)
        return
    console.say(f"Imported into {opened.path} as {name}. Next: {command_line('index', run)}")


@takes_settings
def compare(
    run: RunPath,
    saes: Saes,
    chosen: Chosen,
    name: Name = "compared",
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one row a feature here; RUN/NAME.csv by default.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare SAEs of one layer on the same text: import them, index them, match their features and map their atoms."""
    opened, facts = bring_in(run, saes, chosen, name, None, least=2)
    from sae_core.analysis.similarity.comparing import compare_members, features_of

    with stoppable(command_line("compare", run, *saes, "--as", name)), console.drawn_progress() as progress:
        pipeline.prepare(opened, progress=progress)
        found = compare_members(opened, name, progress=progress)
    sources = named_members(facts, len(found["members"]))
    table = features_of(opened.ensemble(name), dict(enumerate(sources)))
    path = csv or opened.path / f"{name}.csv"
    write_text(path, write_rows(list(table.columns), table.itertuples(index=False)))
    for member, source in zip(found["members"], sources, strict=True):
        member["source"] = source
    if as_json:
        console.print_json({**found, "csv": str(path)})
        return
    _print_comparison(found, opened.settings.origin.words(CORPUS.facts(opened)))
    console.say(f"Every feature: {path}")
    console.say(f"Next: {command_line('dashboard', run)}")


def named_members(facts: Mapping[str, Any], members: int) -> list[str]:
    """Where each member of an imported ensemble came from."""
    sources = [each["from"] for each in facts[GIVEN]]
    return sources if len(sources) == members else [f"{sources[0]}, member {number}" for number in range(members)]


def _print_comparison(found: dict[str, Any], words: Words) -> None:
    rows = [
        {
            "SAE": f"{member['member']}",
            "features": f"{member['features']:,}",
            "explained variance": percent(member["explained_variance"], 1),
            "  95 %": interval(*(member["explained_variance_interval"] or (None, None))) or MISSING,
            f"active features a {words.row}": decimal(member["l0"]),
            "dead": percent(member["dead_fraction"], 1),
            f"another has it (cosine ≥ {found['threshold']})": percent(member["shared"], 1),
            "  of random directions": percent(member["shared_by_chance"], 1),
            "share of the others that have it": percent(member["stability"], 1),
            "all have it": percent(member["in_all"], 1),
        }
        for member in found["members"]
    ]
    console.print_rows(
        rows, title=f"SAEs on the same {found['tokens']:,} {words.rows} (what they explain: held-out ones)"
    )
    for member in found["members"]:
        console.say(f"{member['member']}: {member['source']}")
    for way, counts in found["families"].items():
        sizes = ", ".join(f"{count:,} of {size} SAEs" for size, count in counts["sizes"].items()) or "none"
        chance = ", ".join(f"{count:,} of {size}" for size, count in counts["by_chance"].items()) or "none"
        console.say(f"Families of features by {way}: {sizes}; by chance {chance}.")


def bring_in(
    path: Path,
    saes: list[str],
    chosen: Chosen,
    name: str,
    wiring: Literal["parallel", "residual"] | None,
    *,
    extended: bool = False,
    least: int = 1,
) -> tuple[Run, dict[str, Any]]:
    """Read SAEs, say what they are, and make them an ensemble of the run at a path, which is made if need be.

    Raises:
        UserError: If one cannot be read or does not fit; nothing is written then.
    """
    from sae_core.runs.given import read_given
    from sae_core.runs.importing import import_given, require_fit, require_name, require_wiring

    require_name(name)
    if twice := next((each for number, each in enumerate(saes) if each in saes[:number]), None):
        raise UserError(f"{twice} is given twice; leave one of them out.")
    given = [read_given(each) for each in saes]
    require_wiring(given, wiring)
    members = sum(1 for each in given for _ in each.members)
    if members < least:
        raise UserError(f"{saes[0]} is one SAE, which there is nothing to compare with; give at least {least}.")
    settings = settings_for(path, chosen, _start(given, chosen, extended))
    there = Run.begun(path, settings)
    remarks = require_fit(given, settings, there or (Run.open(path) if is_run(path) else None))
    for each in given:
        console.say(_told(each))
    for remark in (*remarks, *(remark for each in given for remark in each.remarks)):
        console.say(remark)
    run = Run.create(path, settings)
    return run, import_given(run, given, name=name, wiring=wiring)


def _start(given: list[Given], chosen: Chosen, extended: bool) -> RunSettings:
    """The settings on which the chosen ones are laid."""
    from sae_core.runs.importing import starting_settings

    plain = {name: value for name, value in chosen.overrides.items() if not name.startswith("training.")}
    return starting_settings(given, Chosen(None, plain).settings().origin, extended=extended)


def boosted_from(path: Path, sae: str, chosen: Chosen) -> Run:
    """The run in which new SAEs learn what a given one leaves, which is imported into it.

    Raises:
        UserError: As `bring_in`, or if the settings train no such SAEs.
    """
    from sae_core.runs.importing import BASE

    begun = is_run(path) and EXTENDED in Run.open(path).settings.training.methods
    methods = chosen.overrides.get("training.methods", (EXTENDED,))
    if EXTENDED not in methods or (is_run(path) and not begun):
        raise UserError(
            f"--boost-from trains the method {EXTENDED} in a run of its own; choose a new folder, or name it."
        )
    return bring_in(path, [sae], chosen, BASE, None, extended=True)[0]


def _told(each: Given) -> str:
    """What an SAE was recognised as."""
    kinds = ", ".join(each.facts["architectures"])
    place = each.place
    of = [place.model, None if place.layer is None else f"layer {place.layer}", place.site]
    named = ", ".join(word for word in of if word)
    said = f"; of {named}" if named else ""
    return (
        f"{each.source}: {each.kind}, {each.coder.width} features of dimension {each.coder.d_in}, here {kinds}{said}."
    )
