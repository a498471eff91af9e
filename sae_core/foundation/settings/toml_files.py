"""TOML as people give it: a file of settings, and the value of one setting on the command line."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from sae_core.foundation.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: If it is missing, no file or not TOML.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # reading it could wait for ever
            raise UserError(f"The settings file {path} is a pipe; give the path of a TOML file.")
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"The settings file {path} does not exist; give the path of a TOML file.") from None
    except RecursionError:
        raise UserError(f"The settings file {path} cannot be read as TOML: it is nested too deeply.") from None
    except (OSError, ValueError) as error:  # those of UTF-8 and of TOML are ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"The settings file {path} cannot be read as TOML: {reason}.") from None


def parse_value(text: str) -> Any:
    """What somebody means by ``32``, ``[1, 2]`` or ``topk``: TOML, and plain text where it is none.

    Raises:
        UserError: If it has more levels, or a number more digits, than can be followed.
    """
    if "\n" in text or "\r" in text:  # a second line would be a setting of its own
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except (RecursionError, ValueError):
        raise UserError(f"The value {text[:40]}… is nested too deeply or too long; give a plain one.") from None
