"""Whether the Hugging Face hub can be reached, asked once and quickly before a library begins minutes of retries."""

from __future__ import annotations

import re

from huggingface_hub import constants, get_session

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
