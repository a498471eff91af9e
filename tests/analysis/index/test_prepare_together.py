"""Several processes prepare the same files as one, byte by byte; a failure in one stops all and leaves no files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from random_saes import random_ensemble
from together import in_processes

from sae_core.activations import harvest
from sae_core.analysis import prepare
from sae_core.analysis.atoms import atom_map
from sae_core.analysis.index import activation_index as indexing
from sae_core.analysis.index.activation_index import ActivationIndex, build_index, build_index_together
from sae_core.ensembles.ensemble import Ensemble, save_ensemble
from sae_core.foundation.files.whole_files import write_table, write_tensors
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.sae import TopKSAE
from sae_core.training.processes import ALONE, joined

D, TOKENS, BLOCK, VOCABULARY = 8, 203, 32, 30


class Activations:
    """Stands for the activation cache; notes between which rows it is read, and may hold one that is not finite."""

    folder = Path("no such folder")  # so that no row is left out

    def __init__(self, broken: int | None = None) -> None:
        self.acts_TD = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(3))
        self.seen: list[int] = []
        if broken is not None:
            self.acts_TD[broken, 2] = torch.nan

    def read(self, start: int, stop: int) -> torch.Tensor:
        self.seen += [start, stop]
        return self.acts_TD[start:stop]


def _index(rank: int, folder: Path, block: int, broken: int | None) -> tuple[int, int, list[float]]:
    """Index together; the rows that this process has read, and how far it told to be."""
    indexing.BLOCK = block
    acts, ticks = Activations(broken), list[Tick]()
    with joined() as processes:
        build_index_together(
            random_ensemble("topk", "residual"),
            acts.read,
            TOKENS,
            folder / "together",
            shards=folder / "shards",
            processes=processes,
            progress=ticks.append,
        )
    return min(acts.seen, default=0), max(acts.seen, default=0), [tick.done / tick.total for tick in ticks]


@pytest.mark.parametrize(("size", "block"), [(2, 32), pytest.param(4, 100, marks=pytest.mark.slow)])
def test_the_index_of_several_processes_is_that_of_one(size: int, block: int, tmp_path: Path) -> None:
    """Of 203 tokens, in blocks of 32 or 100, of which there are fewer than processes."""
    shards = tmp_path / "shards"
    shards.mkdir()
    (shards / "shard_00040.safetensors").write_text("of an indexing by more processes that was killed")
    results = in_processes(size, _index, tmp_path, block, None)
    parts = sorted((first, last) for first, last, _ in results.values() if last)
    assert len(parts) == min(size, -(-TOKENS // block))
    assert [first for first, _ in parts] == [0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == TOKENS
    assert all(told[-1] == 1.0 for _, _, told in results.values() if told)
    build_index(random_ensemble("topk", "residual"), Activations().read, TOKENS, tmp_path / "alone")
    assert (tmp_path / "together").read_bytes() == (tmp_path / "alone").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "together"]


def test_a_fault_in_one_part_stops_all_and_leaves_nothing(tmp_path: Path) -> None:
    """The second process reads the activation that is not finite."""
    results = in_processes(2, _index, tmp_path, BLOCK, 150)
    assert results[1][0] == "UserError"
    assert "tokens 128 to 160 is not finite" in results[1][1]
    assert results[0] == ("ElsewhereError", "Process 1 could not go on.")
    assert not list(tmp_path.iterdir())


def test_one_process_removes_what_several_have_left(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard_00001.safetensors").write_text("killed")
    options = {"shards": tmp_path / "shards", "processes": ALONE}
    build_index_together(random_ensemble("topk", "parallel"), Activations().read, TOKENS, tmp_path / "one", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert ActivationIndex.open(tmp_path / "one").tokens == TOKENS


def _new_run(path: Path) -> Run:
    run = Run.create(path, RunSettings())
    tokens = torch.randint(VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(4), dtype=torch.int32)
    write_tensors(run.corpus.tokens, {"tokens": tokens, "offsets": torch.tensor([0, 50, 90, TOKENS])})
    write_table(run.corpus.documents, pd.DataFrame({"package": ["a", "b", "c"]}))
    for name, wiring in (("bagged", "parallel"), ("boosted", "residual")):
        members = [TopKSAE(D, 20, k=3, seed=seed) for seed in (0, 1)]
        save_ensemble(Ensemble(members, wiring=wiring, method=name), run.ensemble(name))
    return run


def _prepare(rank: int, path: Path, set_up: Callable[[object, str, object], None] = setattr) -> list[str]:
    """Prepare a run, alone or together; the stages that were told."""
    told: list[str] = []
    set_up(indexing, "BLOCK", BLOCK)
    set_up(harvest, "train_cache", lambda run, **_: Activations())
    # Compiling UMAP takes seconds.
    set_up(atom_map, "map_atoms", lambda atoms, **_: atoms[:, :2].detach().numpy())
    with joined() as processes:
        progress = lambda tick: told.append(tick.stage)  # noqa: E731
        prepare.prepare_run(Run.open(path), device="cpu", progress=progress, processes=processes)
    return told


@pytest.mark.slow
def test_a_run_prepared_by_two_processes_is_that_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, run = (_new_run(tmp_path / name) for name in ("alone", "together"))
    _prepare(0, alone.path, monkeypatch.setattr)
    results = in_processes(2, _prepare, run.path)
    # The second process only indexes.
    assert set(results[1]) == {"index bagged", "index boosted"}
    assert set(results[0]) > set(results[1])
    files = [path.relative_to(alone.path) for path in (alone.path / "ensembles").rglob("*") if path.is_file()]
    assert {"activations.safetensors", "atoms.parquet", "matches.parquet", "map.parquet"} <= {f.name for f in files}
    assert {f.relative_to(run.path) for f in (run.path / "ensembles").rglob("*") if f.is_file()} == set(files)
    for file in files:
        assert (run.path / file).read_bytes() == (alone.path / file).read_bytes(), file
    assert not run.ensemble("bagged").index_shards.exists()
    for name in ("bagged", "boosted"):
        facts, expected = run.facts(f"index/{name}"), alone.facts(f"index/{name}")
        assert (facts["processes"], expected["processes"]) == (2, 1)
        assert facts["entries"] == expected["entries"]
    before = run.manifest_path.read_bytes()
    assert in_processes(2, _prepare, run.path) == {0: [], 1: []}
    assert run.manifest_path.read_bytes() == before
