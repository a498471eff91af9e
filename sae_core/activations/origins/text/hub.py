"""The Hugging Face hub: whether it can be reached, asked before a library begins minutes of retries, and data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from huggingface_hub import constants, get_session

from sae_core.foundation.errors import UserError
from sae_core.foundation.files import row_files as tables

TIMEOUT_SECONDS = 5.0
_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: ``name`` or ``owner/name``."""
    return len(name) <= 96 and _ID.fullmatch(name) is not None


def is_reachable() -> bool:
    """Whether the hub answers. False in offline mode (``HF_HUB_OFFLINE=1``)."""
    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception:  # the HTTP library behind the hub's client changes between versions, and its exceptions with it
        return False
    return True


def endpoint() -> str:
    """The hub's address."""
    return str(constants.ENDPOINT)


def stream_rows(
    name: str,
    columns: Sequence[str],
    *,
    subset: str | None = None,
    split: str,
    instead: str,
    check: str,
    files: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of a data set, streamed.

    Args:
        name: Its id.
        columns: Columns that it must have.
        subset: Its configuration.
        split: Its split.
        instead: What to do where there is no hub, for the error.
        check: What to check where it cannot be read, for the error.
        files: Its Parquet files, as a pattern; they are then read as they are, whatever script lies beside them.

    Raises:
        UserError: If the hub or the package datasets is missing, or the data set cannot be read.
    """
    if not is_reachable():
        raise UserError(
            f"{name!r} is no file, and the hub ({endpoint()}) cannot be asked for a data set of that name; {instead}."
        )
    try:
        from datasets import load_dataset
    except ImportError:
        raise UserError(
            f"The hub data set {name!r} needs the package datasets; run pip install 'sae-ensemble[hub]'."
        ) from None
    place = (name, subset) if files is None else ("parquet",)
    chosen = {} if files is None else {"data_files": f"hf://datasets/{name}/{files}"}
    try:
        for row in load_dataset(*place, **chosen, split=split, streaming=True):
            tables.require_columns(row, columns, f"The hub data set {name!r}")
            yield tables.cleaned(row)
    except UserError:
        raise
    except Exception as error:  # datasets raises its own, fsspec's, the HTTP library's and pyarrow's exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"The hub data set {name!r} cannot be read ({reason}); {check}.") from None
