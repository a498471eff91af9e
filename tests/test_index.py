"""The activation index against a dense brute-force pass, and against damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_core.browse.index import ActivationIndex, build_index
from sae_core.config import Architecture, SAESettings
from sae_core.ensemble import Ensemble, Wiring
from sae_core.errors import UserError
from sae_core.mapped import map_tensors, writing_tensors
from sae_core.progress import Tick
from sae_core.sae import BatchTopKSAE, make_sae

D, TOKENS = 8, 203


def make_ensemble(architecture: Architecture, wiring: Wiring, widths: tuple[int, ...] = (24, 40, 16)) -> Ensemble:
    settings = SAESettings(architecture=architecture, width=24, k=3, initial_threshold=0.4)
    members = [make_sae(settings, D, width=width, seed=seed) for seed, width in enumerate(widths)]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for member in members:
            member.b_dec.normal_(generator=generator)
            member.b_enc.normal_(std=0.1, generator=generator).sub_(0.2)
            if isinstance(member, BatchTopKSAE):
                member.threshold.fill_(0.7)
    weights = [0.5, 0.3, 0.2] if wiring == "parallel" else [1.0, 0.75, 1.0]
    return Ensemble(members, wiring=wiring, weights=weights[: len(widths)]).eval()


@pytest.fixture
def acts_TD() -> torch.Tensor:
    return torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wiring", ["parallel", "residual"])
@pytest.mark.parametrize("architecture", ["relu", "topk", "batchtopk", "jumprelu"])
def test_the_index_is_the_dense_code(
    tmp_path: Path, acts_TD: torch.Tensor, architecture: Architecture, wiring: Wiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble = make_ensemble(architecture, wiring)
    monkeypatch.setattr("sae_core.browse.index.DENSE_CELLS", 40 * 50)  # passes of 50 tokens
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
    ensemble = make_ensemble("topk", "residual")
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    coefs_TM = torch.zeros(TOKENS, index.features)
    for feature in range(index.features):
        positions, values = index.feature(feature)
        coefs_TM[torch.tensor(positions), feature] = torch.tensor(values)
    with torch.no_grad():
        torch.testing.assert_close(ensemble.decode(coefs_TM), ensemble(acts_TD), rtol=1e-4, atol=1e-5)


def test_the_bytes_do_not_depend_on_how_much_fits_into_memory(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ensemble = make_ensemble("topk", "parallel")
    for name, entries in (("small", 1), ("middle", 57), ("large", 10**6)):
        build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / name, entries_in_memory=entries)
    assert (tmp_path / "small").read_bytes() == (tmp_path / "large").read_bytes()
    assert (tmp_path / "middle").read_bytes() == (tmp_path / "large").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "middle", "small"]  # no temporary is left


def test_a_feature_is_a_read_only_view_of_the_file(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    build_index(make_ensemble("relu", "parallel"), lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    positions, values = index.feature(5)
    assert np.shares_memory(positions, index.positions)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1.0


def test_dead_features_and_an_all_dead_ensemble(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ensemble = make_ensemble("relu", "parallel", (8,))
    with torch.no_grad():
        ensemble[0].b_enc.fill_(-100.0)
    build_index(ensemble, lambda a, b: acts_TD[a:b], TOKENS, tmp_path / "index")
    index = ActivationIndex.open(tmp_path / "index")
    assert index.counts.tolist() == [0] * 8
    assert [len(part) for part in index.feature(7)] == [0, 0]


def test_progress_ends_at_the_total_and_unknown_features_are_refused(tmp_path: Path, acts_TD: torch.Tensor) -> None:
    ticks: list[Tick] = []
    build_index(
        make_ensemble("topk", "parallel"),
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
    build_index(make_ensemble("topk", "parallel"), lambda a, b: acts_TD[a:b], TOKENS, path)
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
