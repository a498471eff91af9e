"""The activation index against a dense brute-force pass, and against damaged files."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_saes import random_ensemble

from sae_core.analysis.index.activation_index import ActivationIndex, build_index, shard_bounds, write_placed
from sae_core.analysis.index.kept_entries import KeptEntries
from sae_core.ensembles.ensemble import Wiring
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors, writing_tensors
from sae_core.foundation.progress import Tick
from sae_core.foundation.settings.run_settings import Architecture

D, TOKENS = 8, 203
Array = NDArray[Any]


@pytest.fixture
def acts_TD() -> torch.Tensor:
    return torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wiring", ["parallel", "residual"])
@pytest.mark.parametrize("architecture", ["relu", "topk", "batchtopk", "jumprelu"])
def test_the_index_is_the_dense_code(
    tmp_path: Path, acts_TD: torch.Tensor, architecture: Architecture, wiring: Wiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = random_ensemble(architecture, wiring)
    monkeypatch.setattr("sae_core.analysis.index.activation_index.BLOCK", 50)
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    with torch.no_grad():
        dense_TM = ensemble.encode(acts_TD).numpy()
    assert (index.features, index.tokens, index.entries) == (80, TOKENS, np.count_nonzero(dense_TM))
    assert np.array_equal(index.counts, np.count_nonzero(dense_TM, axis=0))
    rebuilt_TM = np.zeros_like(dense_TM)
    for feature in range(index.features):
        positions, values = index.feature(feature)
        assert index.count(feature) == len(positions)
        assert np.all(np.diff(positions) > 0)
        rebuilt_TM[positions, feature] = values
    assert np.array_equal(rebuilt_TM != 0, dense_TM != 0)
    np.testing.assert_allclose(rebuilt_TM, dense_TM, rtol=2e-5, atol=1e-6)


def test_decoding_the_index_gives_the_reconstruction(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ensemble = random_ensemble("topk", "residual")
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    coefs_TM = torch.zeros(TOKENS, index.features)
    for feature in range(index.features):
        positions, values = index.feature(feature)
        coefs_TM[torch.tensor(positions), feature] = torch.tensor(values)
    with torch.no_grad():
        torch.testing.assert_close(ensemble.decode(coefs_TM), ensemble(acts_TD), rtol=1e-4, atol=1e-5)


def sorted_plainly(features: Array, positions: Array, values: Array, count: int) -> tuple[Array, Array, Array]:
    """The plain twin of counting and placing."""
    order = np.argsort(features, kind="stable")
    pointers = np.searchsorted(features[order], np.arange(count + 1))
    return pointers, positions[order], values[order]


def random_entries(count: int, features: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Entries as encoding gives them: positions ascend, features are as uneven as they are in practice."""
    generator = np.random.default_rng(seed)
    uneven = (features * generator.random(count) ** 3).astype(np.int64)
    return uneven, np.sort(generator.integers(0, 10**6, count)), generator.random(count, np.float32)


def keep(path: Path, columns: tuple[Array, Array, Array], step: int) -> Path:
    with KeptEntries(path) as kept:
        for start in range(0, len(columns[0]), step):
            kept.add(*(column[start : start + step] for column in columns))
    return path


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "features"), [(0, 5), (1, 1), (1000, 1), (1000, 7), (20_000, 3000), (50, 4000)])
def test_placing_is_a_stable_sort_by_feature(tmp_path: Path, count: int, features: int, threads: int) -> None:
    columns = random_entries(count, features)
    half = count // 2
    halves = [tuple(column[part] for column in columns) for part in (slice(half), slice(half, None))]
    files = [keep(tmp_path / f"kept_{number}", part, 300) for number, part in enumerate(halves)]  # type: ignore[arg-type]
    torch.set_num_threads(threads)
    try:
        write_placed(tmp_path / "placed", files, features=features, tokens=10**6)
    finally:
        torch.set_num_threads(1)
    arrays, metadata = map_tensors(tmp_path / "placed")
    assert metadata == {"format": "sae-ensemble-index-1", "tokens": "1000000"}
    for name, plain in zip(("pointers", "positions", "values"), sorted_plainly(*columns, features), strict=True):
        assert np.array_equal(arrays[name], plain)


def test_placing_holds_one_block_at_a_time(tmp_path: Path) -> None:
    features, block = 500, 30_000
    files = [keep(tmp_path / f"kept_{seed}", random_entries(block, features, seed), block) for seed in range(40)]
    tracemalloc.start()  # numpy tells it of every array but those that are mapped
    try:
        write_placed(tmp_path / "placed", files, features=features, tokens=10**6)
        placing = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 12 * block < placing < 3 * 12 * block  # it was traced at all, and far from 40 blocks


def test_kept_entries_are_refused_wherever_they_are_cut_off(tmp_path: Path) -> None:
    path = keep(tmp_path / "kept", random_entries(300, 7), 256)  # 256 is a number whose first byte is 0
    whole = path.read_bytes()
    second = 8 + 256 * 12
    for length in (0, 1, 7, 8, 9, second - 1, second, second + 1, len(whole) - 9, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="kept is cut off"):
            write_placed(tmp_path / "placed", [path], features=7, tokens=10**6)
    assert [found.name for found in tmp_path.iterdir()] == ["kept"]


def test_encoding_holds_as_much_however_many_tokens(tmp_path: Path) -> None:
    ensemble, acts_BD = random_ensemble("topk", "parallel"), torch.randn(1000, D)
    peaks = []
    for tokens in (20_000, 200_000):
        tracemalloc.start()
        build_index(ensemble, lambda a, b: acts_BD[torch.arange(a, b) % 1000], tokens, tmp_path / "index")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_shard_bounds_cover_the_corpus_in_whole_blocks() -> None:
    for tokens, world in ((1, 1), (8192 * 5 + 3, 3), (10, 4), (10**6, 7), (8192 * 8, 8)):
        bounds = [shard_bounds(tokens, rank, world) for rank in range(world)]
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
        assert bounds[-1][1] == tokens
        assert all(start % 8192 == 0 or start == tokens for start, _ in bounds)
        sizes = [stop - start for start, stop in bounds]
        assert max(sizes) - min(sizes) <= 2 * 8192


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(tmp_path: Path, acts_TD: torch.Tensor, bad: float) -> None:
    acts_TD[100, 3] = bad
    with pytest.raises(UserError, match="tokens 0 to 203 is not finite"):
        build_index(random_ensemble("topk", "parallel"), lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_a_feature_is_a_read_only_view_of_the_file(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    build_index(random_ensemble("relu", "parallel"), lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    positions, values = index.feature(5)
    assert np.shares_memory(positions, index.positions)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1.0


def test_dead_features_and_an_all_dead_ensemble(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ensemble = random_ensemble("relu", "parallel", (8,))
    with torch.no_grad():
        ensemble[0].b_enc.fill_(-100.0)
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    assert index.counts.tolist() == [0] * 8
    assert [len(part) for part in index.feature(7)] == [0, 0]


def test_progress_ends_at_the_total_and_unknown_features_are_refused(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ticks: list[Tick] = []
    build_index(
        random_ensemble("topk", "parallel"),
        lambda a, b: acts_TD[a:b],
        TOKENS,
        tmp_path / "index",
        progress=ticks.append,
    )
    assert (ticks[-1].done, ticks[-1].total) == (TOKENS, TOKENS)
    index = ActivationIndex.open(tmp_path / "index")
    for feature in (-1, 80):
        with pytest.raises(UserError, match="features 0 to 79"):
            index.feature(feature)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_cut_off_index_is_refused(tmp_path: Path, acts_TD: torch.Tensor, kept: int) -> None:
    path = tmp_path / "index"
    build_index(random_ensemble("topk", "parallel"), lambda a, b: acts_TD[a:b], TOKENS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"index is damaged .*delete it"):
        ActivationIndex.open(path)


def test_a_missing_index_and_another_safetensors_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        ActivationIndex.open(tmp_path / "index")
    with writing_tensors(tmp_path / "other", {"pointers": (np.int64, (2,))}) as writer:
        writer.write("pointers", 0, np.array([0, 3]))
    with pytest.raises(UserError, match="not an activation index"):
        ActivationIndex.open(tmp_path / "other")


def test_pointers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    layout = {"pointers": (np.int64, (3,)), "positions": (np.int32, (2,)), "values": (np.float32, (2,))}
    metadata = {"format": "sae-ensemble-index-1", "tokens": "5"}
    for pointers in ([0, 3, 2], [0, 1, 3], [1, 1, 2]):
        with writing_tensors(tmp_path / "index", layout, metadata) as writer:
            writer.write("pointers", 0, np.array(pointers))
        with pytest.raises(UserError, match="the pointers do not"):
            ActivationIndex.open(tmp_path / "index")


def test_mapped_files_are_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    layout = {"wide": (np.int64, (2, 2)), "narrow": (np.float32, (3,))}
    with writing_tensors(tmp_path / "file", layout, {"key": "value"}) as writer:
        writer.write("narrow", 1, np.array([2.0, 3.0], np.float32))
        writer.write("wide", 0, np.array([[1, 2], [3, 4]]))
    arrays, metadata = map_tensors(tmp_path / "file")
    loaded = load_file(tmp_path / "file")
    for name in layout:
        assert np.array_equal(arrays[name], loaded[name])
    assert arrays["narrow"].tolist() == [0.0, 2.0, 3.0]
    assert metadata == {"key": "value"}
