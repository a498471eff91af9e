"""Preparing a run: every file for the dashboard, the rows of features, and continuing after an interruption."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import corpus_of, index_of

from sae_core.activations import harvest
from sae_core.analysis import prepare
from sae_core.analysis.atoms import atom_map
from sae_core.analysis.atoms.feature_table import atom_table
from sae_core.analysis.index.activation_index import ActivationIndex
from sae_core.analysis.similarity.matching import families, match_members
from sae_core.analysis.stages import PREPARING
from sae_core.ensembles.ensemble import Ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_table, write_table, write_tensors
from sae_core.foundation.progress import Tick
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.sae import TopKSAE

D, TOKENS, VOCABULARY = 12, 150, 30
STAGES = ("index", "tokens", "together", "nearest", "lens", "atoms", "suggest")
"""Stages of every ensemble that tell how far they are."""
FILES = (
    *("index", "by_token", "matches", "match_summary", "nearest", "firing_matches", "families", "family_summary"),
    *("promoted", "map", "atoms", "suggestions"),
)


class Cache:
    """Stands for the activation cache, whose first rows are the indexed corpus."""

    acts_TD = torch.randn(TOKENS + 40, D, generator=torch.Generator().manual_seed(3))
    folder = Path("no such folder")  # so that no row is left out

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.acts_TD[start:stop]


def ensembles() -> dict[str, Ensemble]:
    return {
        "single": Ensemble([TopKSAE(D, 20, k=3, seed=0)], wiring="parallel", method="single"),
        "boosted": Ensemble([TopKSAE(D, 20, k=3, seed=seed) for seed in (0, 1)], wiring="residual", method="boosted"),
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    run = Run.create(tmp_path / "run", RunSettings())
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCABULARY, (TOKENS,), generator=generator, dtype=torch.int32)
    write_tensors(run.corpus.tokens, {"tokens": tokens, "offsets": torch.tensor([0, 50, 90, TOKENS])})
    write_table(run.corpus.documents, pd.DataFrame({"package": ["a", "b", "c"]}))
    lens = {"unembed_VD": torch.randn(VOCABULARY, D, generator=generator), "norm_weight_D": torch.ones(D)}
    write_tensors(run.corpus.lens, lens)
    for name, ensemble in ensembles().items():
        save_ensemble(ensemble, run.ensemble(name))
    run.activations.mkdir()
    monkeypatch.setattr(harvest, "train_cache", lambda run, **_: Cache())
    # The map has a test of its own, and compiling UMAP takes seconds.
    monkeypatch.setattr(atom_map, "map_atoms", lambda atoms, **_: atoms[:, :2].detach().numpy())
    return run


def test_everything_is_written_and_recorded(run: Run) -> None:
    ticks: list[Tick] = []
    prepare.prepare_run(run, progress=ticks.append)
    of_several = {f"{stage} boosted" for stage in ("match", "families", "energy")}
    told = {f"{stage} {name}" for name in ensembles() for stage in STAGES}
    # One SAE has no pairs and no stages, and the map is a stand-in.
    assert {tick.stage for tick in ticks} == told | of_several
    for name, ensemble in ensembles().items():
        folder = run.ensemble(name)
        assert all(getattr(folder, file).exists() for file in FILES)
        for stage in PREPARING:
            assert run.facts(stage.key_of(name))["seconds"] >= 0
        index = ActivationIndex.open(folder.index)
        with torch.no_grad():
            dense = ensemble.encode(Cache.acts_TD[:TOKENS]).numpy()
        assert np.array_equal(index.counts, (dense > 0).sum(axis=0))
        assert run.facts(f"index/{name}")["entries"] == (dense > 0).sum()
        atoms = read_table(folder.atoms)
        assert atoms["feature"].tolist() == list(range(ensemble.offsets[-1]))
        assert np.allclose(atoms["peak"], dense.max(axis=0), atol=1e-5)
        assert np.allclose(atoms[["x", "y"]], ensemble.dictionary.detach()[:, :2])
        assert len(read_table(folder.promoted)) == len(read_table(folder.suggestions)) == ensemble.offsets[-1]
    assert len(read_table(run.ensemble("boosted").matches)) == 40
    assert [pair["a"] for pair in read_json(run.ensemble("boosted").match_summary)["pairs"]] == [0, 1]
    assert not read_table(run.ensemble("boosted").atoms)["stability"].isna().any()
    assert read_table(run.ensemble("single").atoms)["stability"].isna().all()


def test_what_is_finished_is_not_done_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(atom_map, "map_atoms", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare_run(run)
    assert run.is_finished("lens/single")
    assert not run.is_finished("map/single")
    before = {
        file: getattr(run.ensemble("single"), file).stat().st_mtime_ns for file in ("index", "matches", "promoted")
    }
    time.sleep(0.02)
    prepare.prepare_run(run)
    assert {file: getattr(run.ensemble("single"), file).stat().st_mtime_ns for file in before} == before
    assert run.is_finished("atoms/boosted")
    monkeypatch.setattr(prepare, "load_ensemble", _interrupted)
    prepare.prepare_run(run)


def test_an_older_run_gets_the_nearest_atoms_alone_and_without_its_activations(run: Run) -> None:
    prepare.prepare_run(run)
    written = {name: run.ensemble(name).nearest.read_bytes() for name in ensembles()}
    for name in ensembles():
        run.ensemble(name).nearest.unlink()
        run.manifest_path.write_text(run.manifest_path.read_text().replace(f"nearest/{name}", f"unknown/{name}"))
    run.activations.rmdir()
    older, ticks = Run.open(run.path), list[Tick]()
    prepare.prepare_run(older, progress=ticks.append)
    assert {tick.stage for tick in ticks} == {f"nearest {name}" for name in ensembles()}
    assert {name: run.ensemble(name).nearest.read_bytes() for name in ensembles()} == written


def _interrupted(*_: object, **__: object) -> dict[str, object]:
    raise KeyboardInterrupt


def test_the_same_run_gives_the_same_files(run: Run) -> None:
    prepare.prepare_run(run)
    folder = run.ensemble("boosted")
    first = {file: getattr(folder, file).read_bytes() for file in FILES}
    manifest = run.read_manifest()
    (run.path / "run.json").write_text(run.manifest_path.read_text().replace("/boosted", "/forgotten"))
    prepare.prepare_run(run)
    assert {file: getattr(folder, file).read_bytes() for file in FILES} == first
    assert "atoms/boosted" in manifest["finished"]


def test_the_energy_that_stages_remove_is_measured_while_there_are_activations(run: Run) -> None:
    run.activations.rmdir()
    prepare.prepare_run(run)
    assert run.facts("energy/boosted")["skipped"] == "the activations were deleted"
    (run.path / "run.json").write_text(run.manifest_path.read_text().replace("energy/boosted", "forgotten"))
    run.activations.mkdir()
    prepare.prepare_run(run)
    assert run.facts("energy/boosted")["tokens"] == TOKENS
    assert len(read_table(run.ensemble("boosted").stage_energy)) == 40
    stages = read_json(run.ensemble("boosted").stage_energy_summary)["stages"]
    with torch.no_grad():
        acts_TD = Cache.acts_TD[:TOKENS]
        left = (acts_TD - ensembles()["boosted"](acts_TD)).square().sum() / acts_TD.square().sum()
    assert stages[-1]["after"] == pytest.approx(float(left), rel=1e-4)
    assert not run.ensemble("single").stage_energy.exists()
    assert "skipped" in run.facts("energy/single")


def test_without_an_unembedding_the_rest_is_prepared(run: Run) -> None:
    run.corpus.lens.unlink()
    prepare.prepare_run(run)
    assert not run.ensemble("single").promoted.exists()
    assert run.is_finished("lens/single")
    assert run.is_finished("atoms/single")


def test_a_run_without_its_corpus_is_refused(run: Run) -> None:
    run.corpus.tokens.unlink()
    with pytest.raises(UserError, match=r"tokens.safetensors does not exist"):
        prepare.prepare_run(run)


def test_a_row_says_how_a_feature_fires_and_who_shares_it() -> None:
    generator = np.random.default_rng(0)
    corpus = corpus_of([generator.integers(0, 6, 40).tolist() for _ in range(10)])
    dense = np.round(generator.random((400, 9)) * (generator.random((400, 9)) < 0.3), 2).astype(np.float32)
    dense[:, 4] = 0
    shared = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    members = [TopKSAE(40, 3, k=1, seed=seed) for seed in range(3)]
    with torch.no_grad():
        members[0].W_dec[:2] = members[1].W_dec[:2] = shared[:2] / shared[:2].norm(dim=1, keepdim=True)
    ensemble = Ensemble(members, wiring="parallel")
    matches, _ = match_members(ensemble)
    places = pd.DataFrame({"x": np.arange(9.0), "y": -np.arange(9.0), "cluster": [0, 1, -1] * 3})
    table = atom_table(index_of(dense), corpus, matches=matches, places=places, offsets=ensemble.offsets)
    unit = ensemble.dictionary.detach().double().numpy()
    family, size = families(matches, ensemble.offsets)
    for feature, row in enumerate(table.to_dict("records")):
        values = dense[:, feature]
        active = values[values > 0]
        assert (row["feature"], row["member"], row["latent"]) == (feature, feature // 3, feature % 3)
        assert (row["count"], row["density"], row["dead"]) == (len(active), len(active) / 400, feature == 4)
        assert row["peak"] == pytest.approx(active.max() if len(active) else 0)
        assert row["mean_active"] == pytest.approx(active.mean() if len(active) else 0)
        best = [(unit[3 * m : 3 * m + 3] @ unit[feature]).max() for m in range(3) if m != feature // 3]
        assert row["stability"] == np.mean([cosine >= 0.7 for cosine in best])
        assert row["best_cosine"] == pytest.approx(max(best), abs=1e-6)
        assert (row["family"], row["family_size"]) == (family[feature], size[feature])
        assert (row["x"], row["y"], row["cluster"]) == tuple(places.loc[feature])
        strongest = sorted(np.flatnonzero(values).tolist(), key=lambda place: (-values[place], place))[:20]
        common = Counter(corpus.tokens[strongest].tolist()).most_common(1)
        assert row["top_token"] == (f"#{common[0][0]}" if common else "")
    assert table["family_size"].tolist()[:2] == [2, 2]
