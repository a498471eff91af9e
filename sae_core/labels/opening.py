"""Open the labels of a run: the file in the run folder, or the run's part of a team's database."""

from __future__ import annotations

import os

from sae_core.foundation.machine import environment as variables
from sae_core.foundation.run import Run
from sae_core.labels.database import database_at
from sae_core.labels.store import LabelStore


def labels_of(run: Run, address: str | None = None) -> LabelStore:
    """Open the labels of a run.

    Args:
        run: The run.
        address: A database that holds the labels of several runs, told apart by their identities. By default the
            database that the environment variable `variables.LABELS` names, else the file in the run folder.

    Raises:
        UserError: If the address is not valid, or its driver is not installed.
    """
    address = address or os.environ.get(variables.LABELS)
    if not address:
        return LabelStore(run.labels, run.name)
    created = str(run.read_manifest().get("created", ""))
    return LabelStore.shared(database_at(address), run.name, identity=run.identity, created=created)


def check_address(address: str) -> str:
    """Check that labels can be read at an address.

    Returns:
        The address without its password.

    Raises:
        UserError: If the address is not valid, its driver is missing, or the server does not answer or refuses access.
    """
    database = database_at(address)
    with database.reading():
        return database.shown
