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

from sae_core.analysis.index.building import build_index, build_index_shard, merge_index_shards, shard_bounds
from sae_core.analysis.index.external_sort import EntrySorter, write_merged
from sae_core.analysis.index.reading import ActivationIndex
from sae_core.ensembles.ensemble import Ensemble, Wiring
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import map_tensors, writing_tensors
from sae_core.foundation.progress import Tick
from sae_core.foundation.settings.sections import Architecture

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
    monkeypatch.setattr("sae_core.analysis.index.building.BLOCK", 50)
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index", entries_in_memory=200)
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


def test_the_bytes_do_not_depend_on_how_much_fits_into_memory(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ensemble = random_ensemble("topk", "parallel")
    for name, entries in (("small", 1), ("middle", 57), ("large", 10**6)):
        build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / name, entries_in_memory=entries)
    assert (tmp_path / "small").read_bytes() == (tmp_path / "large").read_bytes()
    assert (tmp_path / "middle").read_bytes() == (tmp_path / "large").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "middle", "small"]  # no temporary is left


def sorted_plainly(features: Array, positions: Array, values: Array, count: int) -> tuple[Array, Array, Array]:
    """The plain twin of the compiled sort and merge."""
    order = np.argsort(features, kind="stable")
    pointers = np.searchsorted(features[order], np.arange(count + 1))
    return pointers, positions[order], values[order]


def random_entries(count: int, features: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Entries as encoding gives them: positions ascend, features are as uneven as they are in practice."""
    generator = np.random.default_rng(seed)
    uneven = (features * generator.random(count) ** 3).astype(np.int64)
    return uneven, np.sort(generator.integers(0, 10**6, count)), generator.random(count, np.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "features"), [(0, 5), (1, 1), (1000, 1), (1000, 7), (20_000, 3000), (50, 4000)])
def test_the_compiled_sort_is_the_plain_one(tmp_path: Path, count: int, features: int, threads: int) -> None:
    columns = random_entries(count, features)
    pointers, positions, values = sorted_plainly(*columns, features)
    torch.set_num_threads(threads)
    try:
        for capacity in (max(1, count // 7), count + 1):
            sorter = EntrySorter(tmp_path, features, capacity)
            for start in range(0, count, 300):
                sorter.add(*(column[start : start + 300] for column in columns))
            runs = sorter.finish()
            assert (len(runs) > 1) == (count > max(capacity, features))
            write_merged(tmp_path / "merged", runs, features, capacity, {})
            arrays, _ = map_tensors(tmp_path / "merged")
            assert np.array_equal(arrays["pointers"], pointers)
            assert np.array_equal(arrays["positions"], positions)
            assert np.array_equal(arrays["values"], values)
    finally:
        torch.set_num_threads(1)


def test_sorting_and_merging_hold_no_more_than_they_may(tmp_path: Path) -> None:
    features, capacity, pieces = 500, 100_000, [random_entries(30_000, 500, seed) for seed in range(40)]
    tracemalloc.start()  # numpy tells it of every array
    try:
        sorter = EntrySorter(tmp_path, features, capacity)
        for number, (which, positions, values) in enumerate(pieces):
            sorter.add(which, np.minimum(positions, 10**6 - 1) + number * 10**6, values)
        runs = sorter.finish()
        sorting = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        write_merged(tmp_path / "merged", runs, features, capacity, {})
        merging = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(runs) == 12
    assert sorting < 24 * capacity + 100_000
    assert merging < 24 * capacity + 100_000
    assert merging > 10 * capacity  # it was traced at all


def test_encoding_holds_as_much_however_many_tokens(tmp_path: Path) -> None:
    ensemble, acts_BD = random_ensemble("topk", "parallel"), torch.randn(1000, D)
    peaks = []
    for tokens in (20_000, 200_000):
        tracemalloc.start()
        build_index(
            ensemble,
            lambda a, b: acts_BD[torch.arange(a, b) % 1000],
            tokens,
            tmp_path / "index",
            entries_in_memory=10**5,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def build_shards(folder: Path, ensemble: Ensemble, acts_TD: torch.Tensor, bounds: list[tuple[int, int]]) -> list[Path]:
    paths = [folder / f"shard_{start}" for start, _ in bounds]
    for path, (start, stop) in zip(paths, bounds, strict=True):

        def read(first: int, end: int, start: int = start, stop: int = stop) -> torch.Tensor:
            assert start <= first < end <= stop  # a process needs its own part of the activations only
            return acts_TD[first:end]

        build_index_shard(ensemble, read, start, stop, path, entries_in_memory=100)
    return paths


@pytest.mark.parametrize("wiring", ["parallel", "residual"])
@pytest.mark.parametrize("architecture", ["relu", "topk", "batchtopk", "jumprelu"])
def test_shards_merge_to_the_bytes_of_one_process(
    tmp_path: Path, acts_TD: torch.Tensor, architecture: Architecture, wiring: Wiring
) -> None:
    """Three shards of unequal size, merged in any order, with much memory or little."""
    ensemble = random_ensemble(architecture, wiring)
    if architecture != "topk":
        for member in ensemble:  # so that codes are sparse enough for the compiled loops
            member.b_enc.data.sub_(2.5)
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "whole")
    assert ActivationIndex.open(tmp_path / "whole").entries > 100
    first, second, third = build_shards(tmp_path, ensemble, acts_TD, [(0, 31), (31, 32), (32, TOKENS)])
    for entries in (7, 10**6):
        merge_index_shards([third, first, second], tmp_path / "merged", entries_in_memory=entries)
        assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("architecture", ["relu", "topk"])
def test_plainly_encoded_shards_that_start_where_blocks_do_merge_to_the_same_bytes(
    tmp_path: Path, acts_TD: torch.Tensor, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_core.analysis.index.building.BLOCK", 16)
    monkeypatch.setattr("sae_core.training.kernels.frozen.use_fast", lambda *_: False)
    ensemble = random_ensemble(architecture, "residual")
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "whole")
    bounds = [shard_bounds(TOKENS, rank, 3) for rank in range(3)]
    merge_index_shards(build_shards(tmp_path, ensemble, acts_TD, bounds), tmp_path / "merged")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()


def test_shard_bounds_cover_the_corpus_in_whole_blocks() -> None:
    for tokens, world in ((1, 1), (8192 * 5 + 3, 3), (10, 4), (10**6, 7), (8192 * 8, 8)):
        bounds = [shard_bounds(tokens, rank, world) for rank in range(world)]
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
        assert bounds[-1][1] == tokens
        assert all(start % 8192 == 0 or start == tokens for start, _ in bounds)
        sizes = [stop - start for start, stop in bounds]
        assert max(sizes) - min(sizes) <= 2 * 8192


def test_shards_that_do_not_make_a_whole_are_refused(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ensemble = random_ensemble("topk", "parallel")
    first, second, third = build_shards(tmp_path, ensemble, acts_TD, [(0, 40), (40, 90), (90, TOKENS)])
    for shards, message in (
        ([first, third], "shard_90 begins at token 90 and not at 40"),
        ([second, third], "shard_40 begins at token 40 and not at 0"),
        ([first, first], "shard_0 begins at token 0 and not at 40"),
        ([first, tmp_path / "shard_7"], "shard_7 does not exist"),
        ([], "no shards"),
    ):
        with pytest.raises(UserError, match=message):
            merge_index_shards(shards, tmp_path / "merged")
    (other,) = build_shards(tmp_path, random_ensemble("topk", "parallel", (24,)), acts_TD, [(40, TOKENS)])
    with pytest.raises(UserError, match=r"shard_40 has 24 features and .*shard_0 has 80"):
        merge_index_shards([first, other], tmp_path / "merged")
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "whole")
    with pytest.raises(UserError, match="whole is not a shard of an index"):
        merge_index_shards([tmp_path / "whole"], tmp_path / "merged")
    third.write_bytes(third.read_bytes()[:-1])
    with pytest.raises(UserError, match="shard_90 is damaged"):
        merge_index_shards([first, second, third], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


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
