"""Read TOML: a file of settings, or the value of one setting on the command line."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

from sae_core.foundation.errors import UserError


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Raises:
        UserError: If the path is missing, is no regular file or is not TOML.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # reading a pipe could wait for ever
            raise UserError(f"The settings file {path} is a pipe; give the path of a TOML file.")
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"The settings file {path} does not exist; give the path of a TOML file.") from None
    except RecursionError:
        raise UserError(f"The settings file {path} cannot be read as TOML: it is nested too deeply.") from None
    except (OSError, ValueError) as error:  # errors of UTF-8 and of TOML are ValueErrors
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"The settings file {path} cannot be read as TOML: {reason}.") from None


def parse_value(text: str) -> Any:
    """Parse a value such as ``32`` or ``[1, 2]`` as TOML; return any other text, such as ``topk``, as it is.

    Raises:
        UserError: If the value has too many levels, or a number has too many digits.
    """
    if "\n" in text or "\r" in text:  # TOML would read a second line as another setting
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except (RecursionError, ValueError):
        raise UserError(f"The value {text[:40]}… is nested too deeply or too long; give a plain one.") from None
