"""Activations that lie in files as arrays: what is read is what was written, whatever the format and the order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from sae_core.activations.corpus import Corpus
from sae_core.activations.harvest import evaluation_cache, harvest, train_cache
from sae_core.activations.sharing import share_activations
from sae_core.activations.store.piles import deal
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings

ROWS, D = 230, 6


def numbers(rows: int = ROWS) -> NDArray[np.float32]:
    """Rows of which no two are equal."""
    return (np.arange(rows * D, dtype=np.float32).reshape(rows, D) % 251 - 100) + np.arange(D, dtype=np.float32) / 8


def begun(path: Path, *files: Path, **settings: Any) -> Run:
    """A run over arrays, gathered."""
    chosen = {"origin.kind": "arrays", "origin.files": [str(file) for file in files], "training.device": "cpu"}
    run = Run.create(path, load_settings(overrides=chosen | settings))
    harvest(run)
    return run


def order_of(run: Run, name: str) -> NDArray[np.int64]:
    from sae_core.foundation.files.mapped_tensors import map_tensors

    return map_tensors(run.activations / name / "rows.safetensors")[0]["rows"]


def _bfloat16(path: Path, acts: NDArray[np.float32]) -> None:
    save_file({"acts": torch.from_numpy(acts).bfloat16(), "labels": torch.zeros(3)}, path)


def _parquet(path: Path, acts: NDArray[np.float32]) -> None:
    pq.write_table(pa.table({"id": range(len(acts)), "acts": list(acts)}), path, row_group_size=50)


def _columns(path: Path, acts: NDArray[np.float32]) -> None:
    pd.DataFrame(acts, columns=[f"sensor {number}" for number in range(D)]).to_parquet(path)


def _arrow(path: Path, acts: NDArray[np.float32]) -> None:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(acts.ravel()), D)
    table = pa.table({"acts": flat})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


def _arrow_stream(path: Path, acts: NDArray[np.float32]) -> None:
    table = pa.table({"acts": list(acts)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


WRITERS: dict[str, tuple[str, Callable[[Path, NDArray[np.float32]], Any], str]] = {
    "npy": (".npy", np.save, "float32"),
    "float16": (".npy", lambda path, acts: np.save(path, np.round(acts).astype(np.float16)), "float16"),
    "float64": (".npy", lambda path, acts: np.save(path, acts.astype(np.float64)), "float32"),
    "big-endian": (".npy", lambda path, acts: np.save(path, acts.astype(">f4")), "float32"),
    "bytes": (".npy", lambda path, acts: np.save(path, np.abs(np.round(acts)).astype(np.uint8)), "float32"),
    "by column": (".npy", lambda path, acts: np.save(path, np.asfortranarray(acts)), "float32"),
    "npz": (".npz", lambda path, acts: np.savez(path, acts=acts, labels=np.zeros(3)), "float32"),
    "npz by column": (".npz", lambda path, acts: np.savez(path, np.asfortranarray(acts)), "float32"),
    "compressed": (".npz", lambda path, acts: np.savez_compressed(path, acts=acts), "float32"),
    "bfloat16": (".safetensors", _bfloat16, "bfloat16"),
    "Parquet": (".parquet", _parquet, "float32"),
    "Parquet by column": (".parquet", _columns, "float32"),
    "Arrow": (".arrow", _arrow, "float32"),
    "Arrow stream": (".arrow", _arrow_stream, "float32"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_rows_of_every_format_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    suffix, write, dtype = WRITERS[name]
    acts, file = numbers(), tmp_path / f"acts{suffix}"
    write(file, acts)
    rounded = torch.from_numpy(acts).bfloat16().float().numpy()
    kept = {"float16": np.round(acts), "bytes": np.abs(np.round(acts)), "bfloat16": rounded}
    expected = kept.get(name, acts)
    run = begun(tmp_path / "run", file)
    train, held_out = train_cache(run), evaluation_cache(run)
    assert train.dtype == dtype
    rows = [order_of(run, each) for each in ("train", "evaluation")]
    assert sorted(np.concatenate(rows)) == list(range(ROWS))  # every row once
    for cache, order in zip((train, held_out), rows, strict=True):
        assert np.array_equal(cache.read(0, cache.rows), expected[order])
        assert np.array_equal(cache.read(3, 5), expected[order[3:5]])
        assert np.allclose(cache.mean_D, expected[order].mean(axis=0, dtype=np.float64), rtol=1e-12)
        square = np.square(expected[order].astype(np.float64)).sum(axis=1).mean()
        assert cache.scale == pytest.approx((D / square) ** 0.5, rel=1e-12)


def test_several_files_and_folders_follow_each_other(tmp_path: Path) -> None:
    acts, folder = numbers(), tmp_path / "more"
    folder.mkdir()
    np.save(tmp_path / "a.npy", acts[:50])
    np.save(folder / "1.npy", acts[50:120])
    np.save(folder / "2.npy", acts[120:])
    run = begun(tmp_path / "run", tmp_path / "a.npy", folder)
    cache = train_cache(run)
    assert np.array_equal(cache.read(0, cache.rows), acts[order_of(run, "train")])
    shown = Corpus.open(run).rows
    assert shown is not None
    places = {shown.at(place, range(place, place + 1)).source for place in range(len(cache.read(0, cache.rows)))}
    assert {"a.npy · row 1", "1.npy · row 1", "2.npy · row 110"} & places


def test_each_pass_of_training_has_every_row_once(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers())
    cache = train_cache(begun(tmp_path / "run", tmp_path / "a.npy"))
    batches = cache.batches(batch_size=10, seed=1)
    drawn = torch.cat([next(batches) for _ in range(cache.rows // 10)])
    every = cache.read(0, cache.rows)
    assert len({tuple(row) for row in drawn.tolist()} & {tuple(row) for row in every.tolist()}) == len(drawn)


def test_rows_dealt_to_piles_are_the_same_rows(tmp_path: Path) -> None:
    _bfloat16(tmp_path / "a.safetensors", numbers())
    run = begun(tmp_path / "run", tmp_path / "a.safetensors")
    cache = train_cache(run)
    dealt = deal(cache, run.dealt, seed=0, pile_bytes=400)
    assert len(dealt.piles or ()) > 1
    one, two = (sorted(map(tuple, each.read(0, each.rows).tolist())) for each in (cache, dealt))
    assert one == two
    assert (dealt.scale, dealt.dtype) == (cache.scale, "bfloat16")


def test_held_out_rows_are_whole_groups(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers())
    group = np.arange(ROWS) * 7919 % 23
    pd.DataFrame({"group": [f"patient {number}" for number in group]}).to_csv(tmp_path / "rows.csv", index=False)
    run = begun(tmp_path / "run", tmp_path / "a.npy", **{"origin.rows": str(tmp_path / "rows.csv")})
    train, held_out = (set(group[order_of(run, name)]) for name in ("train", "evaluation"))
    assert not train & held_out
    assert len(train | held_out) == 23
    facts = run.facts("corpus")
    assert facts["held_out_by"] == "group"
    assert facts["evaluation_documents"] == len(held_out) in (2, 3)
    asked, short = run.settings.origin.about(run.settings, facts)
    assert f"{len(held_out)} of 23 groups are held out" in asked
    assert short == ""


def test_without_groups_blocks_of_rows_are_held_out_and_that_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(2000))
    run = begun(tmp_path / "run", tmp_path / "a.npy", **{"data.train_tokens": 500, "data.index_tokens": 200})
    held = order_of(run, "evaluation")
    assert len(held) == 200
    assert set(np.diff(np.sort(held))[np.diff(np.sort(held)) == 1]) == {1}
    assert len(np.unique(held // 10)) == 20  # blocks of ten
    facts = run.facts("corpus")
    asked, short = run.settings.origin.about(run.settings, facts)
    assert "blocks of neighbouring rows" in asked
    assert short.startswith("1,300 of the 2,000 rows are not used")
    # What is indexed and what is trained on is of blocks from all over the array, not of its beginning.
    train = order_of(run, "train")
    assert len(train) == 500
    for part in (train[:200], train):
        assert {*(part // 500).tolist()} == {0, 1, 2, 3}
    assert len(Corpus.open(run)) == 200


def test_series_are_put_in_order_and_shown_beyond_their_stretches(tmp_path: Path) -> None:
    acts, chance = numbers(), np.random.default_rng(0)
    machine, time = np.arange(ROWS) % 5, chance.permutation(ROWS) // 5
    np.save(tmp_path / "a.npy", acts)
    table = pd.DataFrame({"machine": machine, "time": time, "signal": chance.normal(size=ROWS)})
    table["fault"] = np.where(time > 20, "worn", "none")
    table.to_csv(tmp_path / "rows.csv", index=False)
    named = {"origin.rows": str(tmp_path / "rows.csv"), "origin.group": "machine", "origin.signal": "signal"}
    run = begun(tmp_path / "run", tmp_path / "a.npy", **named)
    order = order_of(run, "train")
    for one in np.unique(machine[order]):
        times = time[order][machine[order] == one]
        assert np.all(np.diff(times) >= 0)
    corpus = Corpus.open(run)
    assert np.array_equal(
        np.asarray(corpus.documents["fault"])[corpus.document_of(np.arange(len(order)))], table["fault"][order]
    )
    place = int(np.flatnonzero(time[order] == 22)[0])
    span = corpus.span(place, 4, 4)
    assert len(span) == 9  # it goes on where the fault begins, although the stretch ends there
    assert corpus.rows is not None
    shown = corpus.rows.at(place, span)
    assert shown.places == tuple(map(str, time[order][span.start : span.stop]))
    assert shown.signal is not None
    assert np.allclose(shown.signal[:, 0], table["signal"].to_numpy()[order][span.start : span.stop])
    assert corpus.window_texts(span) == table["fault"][order][span.start : span.stop].tolist()
    assert shown.fields["machine"] == str(machine[order][place])


def test_times_are_shown_as_they_were_given(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(60))
    times = pd.date_range("2026-11-29", periods=60, freq="h")[np.random.default_rng(0).permutation(60)]
    pd.DataFrame({"time": times.strftime("%Y-%m-%dT%H:%M")}).to_csv(tmp_path / "rows.csv", index=False)
    run = begun(tmp_path / "run", tmp_path / "a.npy", **{"origin.rows": str(tmp_path / "rows.csv")})
    shown = Corpus.open(run).rows
    assert shown is not None
    for place in range(3):
        at = shown.at(place, range(place, place + 1))
        given = times[order_of(run, "train")[place]].strftime("%Y-%m-%dT%H:%M")
        assert (at.places, at.fields["time"]) == ((given,), given)
    assert np.all(np.diff(times[order_of(run, "train")].astype("int64")) > 0)


def test_arrays_that_changed_or_are_gone_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"
    np.save(file, numbers())
    run = begun(tmp_path / "run", file)
    content = file.read_bytes()
    file.write_bytes(content)  # the same numbers at another time
    assert train_cache(run).rows
    file.write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="no longer what it was"):
        train_cache(run)
    file.write_bytes(content[:-4])
    with pytest.raises(UserError, match="no longer what it was"):
        train_cache(run)
    file.unlink()
    with pytest.raises(UserError, match=r"a\.npy, which holds activations of this run, is not there any more"):
        train_cache(run)


def test_runs_share_arrays(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", numbers())
    run = begun(tmp_path / "one", tmp_path / "a.npz")
    other = Run.create(tmp_path / "two", run.settings)
    share_activations(run, [other])
    assert torch.equal(train_cache(run).read(0, 9), train_cache(other).read(0, 9))
    assert Corpus.open(other).rows is not None


def test_only_images_under_the_named_folder_are_read(tmp_path: Path) -> None:
    from PIL import Image

    inside, names = tmp_path / "images", []
    inside.mkdir()
    np.save(tmp_path / "a.npy", numbers(40))
    for number in range(40):
        names.append(f"{number}.png")
        Image.new("RGB", (300, 200), (number, 0, 0)).save(inside / names[-1])
    pd.DataFrame({"image": names}).to_csv(tmp_path / "rows.csv", index=False)
    named = {"origin.rows": str(tmp_path / "rows.csv"), "origin.images": str(inside)}
    shown = Corpus.open(begun(tmp_path / "run", tmp_path / "a.npy", **named)).rows
    assert shown is not None
    image = shown.at(0, range(1)).image
    assert image is not None
    (tmp_path / "there.jpg").write_bytes(image)
    assert Image.open(tmp_path / "there.jpg").size == (96, 64)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    for bad, why in (
        ("../outside.png", "outside of"),
        (str(tmp_path / "outside.png"), "outside of"),
        ("link.png", "outside of"),
        ("https://example.org/a.png", "never fetched"),
        ("missing.png", "no file under"),
    ):
        pd.DataFrame({"image": [*names[:-1], bad]}).to_csv(tmp_path / "rows.csv", index=False)
        with pytest.raises(UserError, match=why) as refused:
            begun(tmp_path / f"run {abs(hash(bad))}", tmp_path / "a.npy", **named)
        assert "row 40" in str(refused.value)
