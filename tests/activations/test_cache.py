"""The activation cache against plain tensors: order, statistics, number formats, shuffling, resuming, damage."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_core.activations.store import checksums
from sae_core.activations.store.cache import ActivationCache, CacheWriter, Dtype
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick

D = 6


def make_acts(rows: int, *, seed: int = 0) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed)) * 3 + 50


def writer(
    folder: Path, *, dtype: Dtype = "float32", contents: str = "x", shard_rows: int | None = 10, refill: bool = False
) -> CacheWriter:
    return CacheWriter(folder, d_in=D, dtype=dtype, contents=contents, shard_rows=shard_rows, refill=refill)


def write(folder: Path, acts_RD: Tensor, *, dtype: Dtype = "float32", piece: int = 4) -> ActivationCache:
    out = writer(folder, dtype=dtype)
    for part in acts_RD.split(piece):
        out.append(part)
    return out.finish()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_come_back_in_order_as_they_were_rounded(tmp_path: Path, dtype: Dtype) -> None:
    acts = make_acts(57)
    cache = write(tmp_path, acts, dtype=dtype)
    expected = acts.to(getattr(torch, dtype)).float()
    assert (cache.rows, cache.d_in) == (57, D)
    assert len(list(tmp_path.glob("*.safetensors"))) == 5
    assert torch.equal(cache.read(0, 57), expected)
    for start, stop in ((0, 0), (57, 57), (11, 12), (9, 40), (56, 57)):
        assert torch.equal(cache.read(start, stop), expected[start:stop])
        assert cache.read(start, stop).dtype == torch.float32
    with pytest.raises(UserError, match="Rows 50 to 58"):
        cache.read(50, 58)


def test_mean_and_scale_are_exact_where_float32_sums_are_not(tmp_path: Path) -> None:
    """Around a large mean a float32 sum over the rows is off in the digits that are compared here."""
    acts = make_acts(20_000) + 3000
    cache = write(tmp_path, acts, piece=700)
    exact = acts.double()
    assert cache.mean_D.dtype == torch.float64
    torch.testing.assert_close(cache.mean_D, exact.mean(dim=0), rtol=1e-12, atol=0)
    assert cache.scale == pytest.approx(float((D / exact.square().sum(dim=1).mean()).sqrt()), rel=1e-12)
    scaled = exact * cache.scale
    assert float(scaled.square().sum(dim=1).mean()) == pytest.approx(D, rel=1e-12)


def test_statistics_are_those_of_the_stored_numbers(tmp_path: Path) -> None:
    acts = make_acts(100)
    cache = write(tmp_path, acts, dtype="bfloat16")
    torch.testing.assert_close(cache.mean_D, cache.read(0, 100).double().mean(dim=0), rtol=1e-12, atol=0)
    assert (cache.mean_D - acts.double().mean(dim=0)).abs().max() > 1e-4


def test_activations_that_are_all_zero_keep_their_scale(tmp_path: Path) -> None:
    assert write(tmp_path, torch.zeros(20, D)).scale == 1.0


def numbered(tmp_path: Path, rows: int) -> ActivationCache:
    return write(tmp_path, torch.arange(rows).float()[:, None].expand(rows, D))


def drawn(
    cache: ActivationCache, count: int, *, seed: int = 0, first_step: int = 0, batch_size: int = 8
) -> list[Tensor]:
    batches = islice(cache.batches(batch_size=batch_size, seed=seed, first_step=first_step), count)
    return [batch[:, 0].long() for batch in batches]


def test_every_pass_draws_all_rows_once_in_a_new_order(tmp_path: Path) -> None:
    cache = numbered(tmp_path, 83)
    batches = drawn(cache, 30)
    assert all(len(batch) == 8 for batch in batches)
    passes = [torch.cat(batches[first : first + 10]) for first in (0, 10, 20)]
    for rows in passes:
        assert len(rows.unique()) == 80
    # Only the ragged end of a pass is left out, and another one each time.
    assert len({tuple(sorted(set(range(83)) - set(rows.tolist()))) for rows in passes}) > 1
    assert not torch.equal(passes[0].sort().values, passes[0])
    assert not torch.equal(passes[0], passes[1])


def test_batches_mix_rows_of_all_shards(tmp_path: Path) -> None:
    cache = numbered(tmp_path, 400)
    for batch in drawn(cache, 5, batch_size=80):
        halves = (batch < 200).float().mean()
        assert 0.25 < halves < 0.75
        assert len(set((batch // 10).tolist())) > 20


def test_shuffling_is_uniform(tmp_path: Path) -> None:
    """Over 200 passes each of 16 rows is in the first batch of 8 about half of the time (± 4 standard deviations)."""
    cache = numbered(tmp_path, 16)
    counts = torch.zeros(16)
    for batch in drawn(cache, 400)[::2]:
        counts[batch] += 1
    assert (counts - 100).abs().max() < 4 * (200 * 0.25) ** 0.5


def test_a_later_first_step_continues_exactly(tmp_path: Path) -> None:
    cache = numbered(tmp_path, 83)
    whole = drawn(cache, 35, seed=3)
    for first in (0, 1, 9, 10, 11, 25):
        for here, there in zip(drawn(cache, 5, seed=3, first_step=first), whole[first:], strict=False):
            assert torch.equal(here, there)
    assert not torch.equal(torch.cat(drawn(cache, 10, seed=4)), torch.cat(whole[:10]))


def test_a_batch_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 20 activations, fewer than training.batch_size \(21\)"):
        next(numbered(tmp_path, 20).batches(batch_size=21, seed=0))


def test_an_interrupted_cache_goes_on_at_a_shard_and_ends_the_same(tmp_path: Path) -> None:
    acts = make_acts(50)
    whole = write(tmp_path / "whole", acts)
    broken = writer(tmp_path / "broken")
    for part in acts[:20].split(4):
        broken.append(part)
    assert broken.rows == 20
    del broken  # 12 rows are in a shard, 8 were still waiting
    with pytest.raises(UserError, match="is not finished"):
        ActivationCache.open(tmp_path / "broken")
    again = writer(tmp_path / "broken")
    assert again.rows == 12
    for part in acts[12:].split(4):
        again.append(part)
    cache = again.finish()
    assert torch.equal(cache.read(0, 50), acts)
    assert torch.equal(cache.mean_D, whole.mean_D)
    assert (cache.scale, cache.fingerprint) == (whole.scale, whole.fingerprint)


def test_other_contents_or_a_damaged_shard_start_anew(tmp_path: Path) -> None:
    write(tmp_path, make_acts(50))
    assert writer(tmp_path).rows == 50
    assert writer(tmp_path, contents="y").rows == 0
    assert writer(tmp_path, dtype="float16").rows == 0
    shard = tmp_path / "shard_00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert writer(tmp_path).rows == 0


def test_the_fingerprint_tells_contents_apart(tmp_path: Path) -> None:
    one, same, other = (
        write(tmp_path / name, make_acts(30, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    acts = make_acts(5)
    acts[3, 2] = bad
    with pytest.raises(UserError, match="not a number"):
        writer(tmp_path).append(acts)


def test_what_overflows_the_number_format_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"7e\+04 does not fit float16; set data.dtype to bfloat16"):
        writer(tmp_path, dtype="float16").append(torch.full((2, D), 7e4))
    writer(tmp_path, dtype="bfloat16").append(torch.full((2, D), 7e4))


def test_wrong_shapes_and_empty_caches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="takes rows of 6 numbers"):
        writer(tmp_path).append(torch.zeros(3, D + 1))
    with pytest.raises(UserError, match="No activations were written"):
        writer(tmp_path).finish()


def test_missing_and_damaged_caches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no activations in"):
        ActivationCache.open(tmp_path / "nowhere")
    write(tmp_path, make_acts(30))
    shard = tmp_path / "shard_00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-8])
    with pytest.raises(UserError, match="damaged"):
        ActivationCache.open(tmp_path)
    shard.unlink()
    with pytest.raises(UserError, match="does not exist"):
        ActivationCache.open(tmp_path)
    shard.write_bytes((tmp_path / "shard_00002.safetensors").read_bytes())
    with pytest.raises(UserError, match="damaged"):
        ActivationCache.open(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": 1, "finished": true}')
    with pytest.raises(UserError, match="damaged"):
        ActivationCache.open(tmp_path)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_found_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path, make_acts(50))
    shard = tmp_path / "shard_00002.safetensors"
    flip_a_byte(shard)
    for _ in range(2):
        with pytest.raises(UserError, match=r"shard_00002\.safetensors .* damaged \(its checksum .*; delete that file"):
            ActivationCache.open(tmp_path)
    flip_a_byte(shard)
    ActivationCache.open(tmp_path)


def test_shards_are_read_for_their_checksum_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write(tmp_path / "one", make_acts(50))
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return real(path)

    real = checksums.file_checksum
    monkeypatch.setattr(checksums, "file_checksum", counting)
    ActivationCache.open(cache.folder)
    assert read == []
    (cache.folder / "shard_00001.safetensors").touch()
    ActivationCache.open(cache.folder)
    assert read == ["shard_00001.safetensors"]
    read.clear()
    shutil.copytree(cache.folder, tmp_path / "two")  # keeps size, time and what was remembered
    ticks: list[Tick] = []
    ActivationCache.open(tmp_path / "two", progress=ticks.append)
    assert len(read) == len(ticks) == 5
    (tmp_path / "two" / "verified.json").write_text("[]")
    ActivationCache.open(tmp_path / "two")
    assert len(read) == 10


def test_a_gap_is_filled_with_what_was_there(tmp_path: Path) -> None:
    acts = make_acts(50)
    before = write(tmp_path, acts)
    (tmp_path / "shard_00001.safetensors").unlink()
    flip_a_byte(tmp_path / "shard_00003.safetensors")
    again = writer(tmp_path, refill=True)
    assert again.gaps == [(12, 24), (36, 48)]
    assert again.rows == 50
    assert all(again.refill(acts[start:stop]) for start, stop in tuple(again.gaps))
    cache = again.finish()
    assert torch.equal(cache.read(0, 50), acts)
    assert (cache.fingerprint, cache.scale) == (before.fingerprint, before.scale)


def test_a_gap_that_is_filled_with_something_else_begins_anew(tmp_path: Path) -> None:
    write(tmp_path, make_acts(50))
    (tmp_path / "shard_00001.safetensors").unlink()
    again = writer(tmp_path, refill=True)
    assert not again.refill(make_acts(12, seed=1))
    assert (again.rows, again.gaps) == (0, [])
    again.append(make_acts(20, seed=2))
    assert torch.equal(again.finish().read(0, 20), make_acts(20, seed=2))
