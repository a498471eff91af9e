"""The database server that tests of labels share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgres import cluster


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with cluster() as address:
        yield address
