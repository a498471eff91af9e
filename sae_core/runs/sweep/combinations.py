"""The combinations of settings that a sweep goes through: each is a run folder, and a file remembers them all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from sae_core.analysis.stages import EVALUATIONS
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_object, write_json
from sae_core.foundation.run import first_difference, is_run, sweep_manifest
from sae_core.foundation.settings.bounds import STORED
from sae_core.foundation.settings.reading import load_settings, stored_settings
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.foundation.settings.toml_files import parse_value

FORMAT = 1
LONGEST_NAME = 80
"""Characters of a folder's name."""

Values = dict[str, Any]
"""A value for each setting that varies, by its dotted name."""


@dataclass(frozen=True, slots=True)
class Combination:
    """One run of a sweep.

    Attributes:
        values: What it sets.
        settings: All its settings.
        folder: The name of its run folder.
    """

    values: Values
    settings: RunSettings
    folder: str


@dataclass(frozen=True, slots=True)
class Sweep:
    """A folder of runs that differ in some settings.

    Attributes:
        path: The folder.
        base: What all runs share.
        names: The settings that vary, in the order in which they were given.
        combinations: The runs, in the order in which they were asked for.
        stages: The evaluations that each run gets.
    """

    path: Path
    base: RunSettings
    names: tuple[str, ...]
    combinations: tuple[Combination, ...]
    stages: tuple[str, ...] = EVALUATIONS

    def save(self) -> None:
        """Remember the sweep in its folder."""
        content = {
            "format": FORMAT,
            "settings": self.base.model_dump(mode="json"),
            "varied": list(self.names),
            "stages": list(self.stages),
            "combinations": [combination.values for combination in self.combinations],
        }
        write_json(sweep_manifest(self.path), content)


def is_sweep(path: Path) -> bool:
    """Whether a sweep was begun in this folder."""
    return sweep_manifest(path).exists()


def open_sweep(path: Path) -> Sweep:
    """The sweep that was begun in a folder.

    Raises:
        UserError: If there is none, or its file is damaged.
    """
    if not is_sweep(path):
        raise UserError(f"{path} holds no sweep; begin one with --vary, e.g. --vary sae.k=16,32,64.")
    content = read_object(sweep_manifest(path))
    try:
        names, stages = tuple(content["varied"]), tuple(content["stages"])
        base = RunSettings.model_validate(stored_settings(content["settings"]), context=STORED)
        found = [_combination(base, dict(values)) for values in content["combinations"]]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{sweep_manifest(path)} is damaged; delete it and give the sweep's options again.") from None
    return Sweep(path, base, names, tuple(found), stages)


def plan_sweep(path: Path, base: RunSettings, varied: Mapping[str, Sequence[Any]]) -> Sweep:
    """A new sweep, or the one in the folder with more combinations; nothing is written.

    Args:
        path: The folder.
        base: What all runs share.
        varied: The values of each setting that varies, by its dotted name.

    Raises:
        UserError: If a setting or a combination is not usable, or the folder holds a run or another sweep.
    """
    if is_run(path):
        raise UserError(f"{path} holds a run, so a sweep cannot lie in it; choose another folder.")
    names = tuple(varied)
    new = [_combination(base, dict(zip(names, values, strict=True))) for values in product(*varied.values())]
    if not is_sweep(path):
        return Sweep(path, base, names, tuple(_different(new)))
    there = open_sweep(path)
    if set(there.names) != set(names):
        raise UserError(
            f"The sweep in {path} varies {', '.join(there.names)}; vary the same settings, or choose another folder."
        )
    # What varies may differ there, as each run sets it.
    difference = first_difference(_shared(there.base, names), _shared(base, names))
    if difference:
        raise UserError(f"The sweep in {path} has other settings ({difference}); choose another folder.")
    return replace(there, combinations=tuple(_different([*there.combinations, *new])))


def parse_varied(given: Sequence[str]) -> dict[str, list[Any]]:
    """``["sae.k=16,32"]`` as ``{"sae.k": [16, 32]}``: values are TOML, and plain text where they are not.

    Raises:
        UserError: If one is not of the form section.name=value,value,…, or a name or a value comes twice.
    """
    varied: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = (part.strip() for part in text.partition("="))
        if not equals or "." not in name or not values.strip(", "):
            raise UserError(f"--vary {text} is not of the form section.name=value,value,…, e.g. --vary sae.k=16,32,64.")
        if name in varied:
            raise UserError(f"--vary {name} is given twice; give all its values at once.")
        listed = parse_value(f"[{values}]")
        varied[name] = listed if isinstance(listed, list) else [value.strip() for value in values.split(",")]
        twice = [value for number, value in enumerate(varied[name]) if value in varied[name][:number]]
        if twice:
            raise UserError(f"--vary {name} has the value {twice[0]} twice; leave one of them out.")
    return varied


def _combination(base: RunSettings, values: Values) -> Combination:
    return Combination(values, load_settings(overrides=values, base=base), _folder(values))


def _folder(values: Values) -> str:
    """A name that people can read and every disk can hold: k=16,seed=0."""
    parts = [f"{name.partition('.')[2]}={_plain(value)}" for name, value in values.items()]
    name = ",".join(parts)
    exact = all(re.fullmatch(r"[\w.+-]+", _text(value)) for value in values.values())
    short = [name.partition(".")[2] for name in values]
    if exact and len(name) <= LONGEST_NAME and len(set(short)) == len(short):
        return name
    # Something was left out, so two names could be the same.
    return f"{name[:LONGEST_NAME]}-{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]}"


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", _text(value)).strip("-")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _different(combinations: Iterable[Combination]) -> list[Combination]:
    return list({combination.folder: combination for combination in combinations}.values())


def _shared(settings: RunSettings, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The settings without those that vary."""
    values = settings.model_dump(mode="json")
    for name in names:
        section, _, setting = name.partition(".")
        values[section].pop(setting, None)
    return values
