"""Read settings: from a TOML file, from dotted overrides, and from the runs of older versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sae_core.foundation.errors import UserError, short
from sae_core.foundation.origins import ORIGINS
from sae_core.foundation.settings import bounds
from sae_core.foundation.settings.run_settings import RunSettings, run_settings
from sae_core.foundation.settings.toml_files import read_toml


def load_settings(
    path: Path | None = None, overrides: Mapping[str, Any] | None = None, *, base: RunSettings | None = None
) -> RunSettings:
    """Load settings from a TOML file, then apply dotted overrides such as ``{"sae.k": 32}``.

    Args:
        path: The TOML file.
        overrides: Settings by their dotted names, which take precedence over the file.
        base: The values of settings that are not given; the defaults if None.

    Raises:
        UserError: If the file is missing or not TOML, or a setting is unknown or out of range.
    """
    values: dict[str, Any] = base.model_dump() if base else {}
    if path is not None:
        for section, table in read_toml(path).items():
            values[section] = {**values.get(section, {}), **table} if isinstance(table, dict) else table
    for dotted, value in (overrides or {}).items():
        section, _, name = dotted.partition(".")
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise UserError(f"Setting {section} must be a table of settings, not {table!r}.")
        table[name] = value
    return parse_settings(values, origin=str(path) if path else "the command line")


def parse_settings(values: Mapping[str, Any], *, origin: str, stored: bool = False) -> RunSettings:
    """Validate a nested mapping of settings.

    Args:
        values: The settings.
        origin: Where the settings come from, for messages.
        stored: Whether a run was made with these settings. Bounds that are newer than the run then do not apply.

    Raises:
        UserError: One sentence that names the first offending setting and its origin.
    """
    try:
        return run_settings().model_validate(values, context=bounds.STORED if stored else None)
    except ValidationError as error:
        first = error.errors()[0]
        section, *rest = first["loc"] or ("",)
        fields = _fields_of(str(section), rest)
        if section == "origin":  # behind which its kind stands, as which pydantic read it
            rest = rest[1:]
        name = ".".join(map(str, (section, *rest)))
        if first["type"] == "extra_forbidden":
            known = ", ".join(fields)
            raise UserError(f"Unknown setting {short(name)} in {origin}; known there: {known}.") from None
        message = first["msg"].removeprefix("Value error, ")
        given = f" (given: {short(repr(first['input']))})" if name else ""
        raise UserError(f"Setting {name or 'combination'} in {origin} is not usable: {message}{given}.") from None


def stored_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the settings of a run of an older version: add settings for behaviour that was fixed in that version."""
    text = values.get("text", {})
    return {**values, "text": {"cut": "first", **text}} if isinstance(text, Mapping) else dict(values)


def _fields_of(section: str, rest: Sequence[int | str]) -> Iterable[str]:
    """List the valid names beside an unknown setting of a section."""
    if section == "origin" and rest:
        return ORIGINS[str(rest[0])].model_fields
    sections = run_settings().model_fields
    field = sections.get(section)
    if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
        return sections
    return field.annotation.model_fields
