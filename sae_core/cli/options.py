"""Shared options of commands, and their conversion into settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import update_wrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from sae_core.foundation.errors import UserError
from sae_core.foundation.methods import GIVEN
from sae_core.foundation.origin import Origin
from sae_core.foundation.origins import ORIGINS
from sae_core.foundation.run import is_run, layer_folder
from sae_core.foundation.settings.presets import PRESETS, preset_settings
from sae_core.foundation.settings.reading import load_settings
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.foundation.settings.toml_files import parse_value

Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"Start from the paper's settings or the demo's: {', '.join(PRESETS)}; other options take precedence.",
    ),
]
ConfigPath = Annotated[Path | None, typer.Option("--config", help="Read settings from this TOML file.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Set any setting by its dotted name, e.g. sae.k=32; repeatable."),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,…",
        help="Comma-separated: train a run for each of these layers, each in its own folder inside the run folder. The "
        "model reads the text once for all layers.",
    ),
]
Sites = Annotated[str | None, typer.Option(metavar="SITE,…", help="The same for several sites of each layer.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON on standard output.")]

SETTINGS = {
    "text": "text.source",
    "text_column": "text.text_column",
    "cut": "text.cut",
    "model": "model.name",
    "layer": "model.layer",
    "site": "model.site",
    "architecture": "sae.architecture",
    "width": "sae.width",
    "k": "sae.k",
    "methods": "training.methods",
    "members": "training.members",
    "tokens": "training.tokens",
    "seed": "training.seed",
    "device": "training.device",
    "precision": "training.precision",
    "kernels": "training.kernels",
}
"""The settings that have their own option, by the option's name. All other settings need --set or --config."""
ORIGIN_OPTIONS = {option: (each, name) for each in ORIGINS.values() for option, name in each.options.items()}
"""The options with which an origin is chosen: the origin, and its setting."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The settings given to a command.

    Attributes:
        config: A TOML file of settings, which take precedence over the preset.
        overrides: Settings by their dotted names, which take precedence over the file.
        preset: The name of a preset.
    """

    config: Path | None
    overrides: dict[str, Any]
    preset: str | None = None

    def __bool__(self) -> bool:
        """Whether any setting was given."""
        return self.config is not None or bool(self.overrides) or self.preset is not None

    def settings(self, base: RunSettings | None = None) -> RunSettings:
        """Return all settings; settings not given come from ``base``.

        Raises:
            UserError: If there is no such preset, a setting is unknown or out of range, or a method trains nothing.
        """
        there = base.training.methods if base else ()
        if self.preset is not None:
            base = preset_settings(self.preset, base=base)
        settings = load_settings(self.config, self.overrides, base=base)
        if GIVEN in settings.training.methods and GIVEN not in there:
            raise UserError(
                f"training.methods names {GIVEN}, which trains nothing; sae-ensemble import brings SAEs in."
            )
        return settings


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter ``chosen`` by the options of `SETTINGS`, --preset, --config and --set."""

    def with_options(*, preset: str | None, config: Path | None, assignments: list[str] | None, **given: Any) -> None:
        overrides = {dotted: value for name, dotted in SETTINGS.items() if (value := given.pop(name)) is not None}
        overrides |= _of_origin({name: given.pop(name) for name in ORIGIN_OPTIONS})
        if isinstance(methods := overrides.get("training.methods"), str):
            overrides["training.methods"] = methods.split(",")
        assigned = parse_assignments(assignments)
        if both := [name for name in SETTINGS if SETTINGS[name] in overrides and SETTINGS[name] in assigned]:
            option = both[0].replace("_", "-")
            raise UserError(f"Both --{option} and --set {SETTINGS[both[0]]} are given; leave one of them out.")
        command(chosen=Chosen(config, {**overrides, **assigned}, preset), **given)

    own = inspect.signature(command, eval_str=True).parameters
    options = [
        _parameter("preset", Preset),
        _parameter("config", ConfigPath),
        *(_parameter(name, _option(dotted)) for name, dotted in SETTINGS.items()),
        *(_parameter(name, _origin_option(*chosen)) for name, chosen in ORIGIN_OPTIONS.items()),
        _parameter("assignments", Assignments),
    ]
    parameters = [new for name, old in own.items() for new in (options if name == "chosen" else [old])]
    update_wrapper(with_options, command)
    # Typer reads a command's options from its signature.
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options


def _of_origin(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of options that choose an origin."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value:
            origin, field = ORIGIN_OPTIONS[name]
            found |= {"origin.kind": origin.model_fields["kind"].default, f"origin.{field}": value}
    return found


def choose_places(run: Path, chosen: Chosen, layers: str | None, sites: str | None) -> dict[Path, Chosen]:
    """Return the run folders that --layers and --sites ask for, each with its settings.

    Args:
        run: The folder of the runs.
        chosen: The settings that the runs share.
        layers: Layers, comma-separated; the settings' layer if not given.
        sites: Sites, comma-separated; the settings' site if not given.

    Raises:
        UserError: If a layer is not a number, a layer or a site is also given alone, or the folder holds a run.
    """
    for name, given in (("layer", layers), ("site", sites)):
        if given and f"model.{name}" in chosen.overrides:
            raise UserError(f"Both --{name}s and model.{name} are given; leave one of them out.")
    if is_run(run):
        raise UserError(f"{run} holds a run, so runs of several layers cannot lie in it; choose another folder.")
    settings = chosen.settings()
    if not settings.origin.reads_text:
        raise UserError(
            f"The activations come from {settings.origin.title}, which has no layers; leave --layers and --sites out."
        )
    shared = settings.model
    try:
        numbers = [int(layer) for layer in layers.split(",")] if layers else [shared.layer]
    except ValueError:
        raise UserError(f"--layers {layers} is not of the form N,N,…, e.g. --layers 2,4,6.") from None
    places = [(layer, site.strip()) for layer in numbers for site in (sites.split(",") if sites else [shared.site])]
    if twice := [place for number, place in enumerate(places) if place in places[:number]]:
        raise UserError(f"Layer {twice[0][0]}, site {twice[0][1]}, is given twice; leave one of them out.")
    return {
        layer_folder(run, layer, site): replace(
            chosen, overrides={**chosen.overrides, "model.layer": layer, "model.site": site}
        )
        for layer, site in places
    }


def parse_assignments(assignments: list[str] | None) -> dict[str, Any]:
    """Parse ``["sae.k=32"]`` as ``{"sae.k": 32}``: a value is TOML or, if it is not, plain text.

    Raises:
        UserError: If an assignment is not of the form section.name=value, or names a setting twice.
    """
    values: dict[str, Any] = {}
    for assignment in assignments or []:
        name, equals, text = assignment.partition("=")
        if not equals or not all(name.split(".")) or "." not in name:
            raise UserError(f"--set {assignment} is not of the form section.name=value, e.g. --set sae.k=32.")
        if name in values:
            raise UserError(f"--set {name} is given twice; leave one of them out.")
        values[name] = parse_value(text)
    return values


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation)


def _origin_option(origin: type[Origin], name: str) -> Any:
    """Make the option that chooses an origin and sets one of its fields."""
    field = origin.model_fields[name]
    many = isinstance(field.default, tuple)
    return Annotated[
        (list[str] if many else str) | None, typer.Option(metavar="PATH", help=f"{field.description} (origin.{name})")
    ]


def _option(dotted: str) -> Any:
    """Make the option of a setting; the help is the setting's docstring and default."""
    section, _, name = dotted.partition(".")
    model = RunSettings.model_fields[section].annotation
    field = model.model_fields[name]  # type: ignore[union-attr]
    many = isinstance(field.default, tuple)
    default = ",".join(field.default) if many else field.default
    text = f"{'Comma-separated. ' if many else ''}{field.description} ({dotted}, default {default})"
    return Annotated[(int if field.annotation is int else str) | None, typer.Option(help=text)]
