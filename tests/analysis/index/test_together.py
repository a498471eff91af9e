"""The table of companions against the plain twin for one feature at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.index.examples import co_active
from sae_core.analysis.index.together import Together, write_together
from sae_core.foundation.errors import UserError


def random_index(*, tokens: int, features: int, seed: int) -> ActivationIndex:
    """Features of very different frequency; some are dead, one fires everywhere."""
    chance = np.random.default_rng(seed)
    density = chance.random(features) ** 4
    density[:2], density[2] = 0.0, 1.0
    fires_TF = chance.random((tokens, features)) < density
    counts = fires_TF.sum(axis=0)
    positions = np.concatenate([np.flatnonzero(column) for column in fires_TF.T]).astype(np.int32)
    values = chance.random(len(positions)).astype(np.float32)
    return ActivationIndex(tokens, np.concatenate([[0], counts.cumsum()]).astype(np.int64), positions, values)


@pytest.mark.parametrize("entries_at_a_time", [7, 500, 10**9])
def test_companions_are_those_of_the_plain_twin(tmp_path: Path, entries_at_a_time: int) -> None:
    index = random_index(tokens=300, features=70, seed=entries_at_a_time % 97)
    write_together(index, tmp_path / "together.safetensors", kept=12, entries_at_a_time=entries_at_a_time)
    table = Together.open(tmp_path / "together.safetensors")
    for feature in range(index.features):
        for count in (3, 12):
            pd.testing.assert_frame_equal(table.of(feature, count), co_active(index, feature, count))
    assert [file.name for file in tmp_path.iterdir()] == ["together.safetensors"]


def test_ties_go_to_the_lower_number(tmp_path: Path) -> None:
    # Five features that fire on the same three tokens.
    positions = np.tile(np.array([1, 4, 5], np.int32), 5)
    index = ActivationIndex(6, np.arange(0, 16, 3), positions, np.ones(15, np.float32))
    write_together(index, tmp_path / "table", kept=3)
    table = Together.open(tmp_path / "table")
    assert table.of(2)["feature"].tolist() == [0, 1, 3]
    assert table.of(2)["together"].tolist() == [3, 3, 3]
    assert table.of(2)["lift"].tolist() == [2.0, 2.0, 2.0]


def test_an_index_in_which_nothing_fires_has_no_companions(tmp_path: Path) -> None:
    index = ActivationIndex(5, np.zeros(4, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    write_together(index, tmp_path / "table")
    assert Together.open(tmp_path / "table").of(1).empty


def test_a_feature_or_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    index = random_index(tokens=20, features=5, seed=0)
    write_together(index, tmp_path / "table")
    with pytest.raises(UserError, match="no feature 5"):
        Together.open(tmp_path / "table").of(5)
    (tmp_path / "table").write_bytes(b"\0" * 64)
    with pytest.raises(UserError):
        Together.open(tmp_path / "table")
