"""Stability over independent trainings: the figures of whole runs, refusals, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call
from torch import Tensor

from sae_core.analysis.stability.retrains import evaluate_retrains
from sae_core.analysis.stability.stability import measure_stability
from sae_core.analysis.stages import EVALUATIONS
from sae_core.analysis.summary import as_text, summarize
from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import read_json, read_table
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.reading import load_settings
from sae_core.runs import pipeline
from sae_core.sae import TopKSAE

D, N, J = 16, 40, 3


def shared_atoms() -> Tensor:
    return torch.nn.functional.normalize(torch.randn(N, D, generator=torch.Generator().manual_seed(99)), dim=1)


def member(seed: int, width: int = N) -> TopKSAE:
    """An SAE half of whose atoms are near those that all share."""
    sae = TopKSAE(D, width, k=3, seed=seed)
    with torch.no_grad():
        sae.W_dec[: N // 2] += 3 * shared_atoms()[: N // 2]
        sae.normalize_atoms()
    return sae


def write_run(
    path: Path, seed: int, *, methods: tuple[str, ...] = BY_DEFAULT, text: str = "same", **settings: object
) -> Run:
    overrides = {"sae.width": N, "sae.k": 3, "training.members": J, "training.device": "cpu", "training.seed": seed}
    run = Run.create(path, load_settings(overrides=overrides | settings))
    run.finish("corpus", {"fingerprint": text})
    members = [member(100 * seed + number) for number in range(J)]
    made = {
        "single": Ensemble(members[:1], wiring="parallel"),
        "bagged": Ensemble(members, wiring="parallel"),
        "boosted": Ensemble([members[0], *map(member, (seed + 50, seed + 70))], wiring="residual"),
        "expanded": Ensemble([member(seed + 90, J * N)], wiring="parallel", method="expanded"),
    }
    for name in methods:
        save_ensemble(made[name], run.ensemble(name))
    for stage in EVALUATIONS:
        run.finish(f"evaluate/{stage}")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("seeds")
    found = [write_run(folder / f"seed_{seed:02d}", seed) for seed in range(3)]
    evaluate_retrains(found[0], found[1:])
    return found


def test_every_ensemble_is_compared_as_a_whole_over_all_runs(runs: list[Run]) -> None:
    found = read_json(runs[0].evaluation("stability"))
    assert found["runs"] == [{"run": f"seed_{seed:02d}", "seed": seed} for seed in range(3)]
    assert list(found["ensembles"]) == list(BY_DEFAULT)
    table = read_table(runs[0].evaluation_table("stability"))
    for name in BY_DEFAULT:
        ensembles = [load_ensemble(run.ensemble(name)) for run in runs]
        figures, features = measure_stability([ensemble.dictionary.detach() for ensemble in ensembles])
        own = {key: found["ensembles"][name][key] for key in figures}
        assert own == pytest.approx(figures, abs=1e-6)
        # Stages are compared by themselves; these runs have no activations of which noise could be made.
        assert set(found["ensembles"][name]) - set(own) == ({"by_stage", "noise"} if name == "boosted" else set())
        mine = table[table["ensemble"] == name]
        assert mine["feature"].tolist() == list(range(ensembles[0].offsets[-1]))
        assert mine["member"].tolist() == np.repeat(range(len(ensembles[0])), ensembles[0].widths).tolist()
        assert np.array_equal(mine["stability"], features[0].stability_N)
        assert np.allclose(mine["matched_cosine"], features[0].matched_cosine_N, equal_nan=True)
    assert found["ensembles"]["single"]["pw_mcc"] > found["ensembles"]["single"]["null_matched"] + 0.1
    assert "are gone" in found["ensembles"]["boosted"]["noise"]["reason"]
    assert runs[0].is_finished("evaluate/stability")


def test_one_sae_trained_as_often_is_as_stable_as_a_bag(runs: list[Run]) -> None:
    """Members of a bag are such SAEs, so that the bag's higher pooled figure says nothing about bagging."""
    found = read_json(runs[0].evaluation("stability"))
    as_often, single, bagged = found["single_as_often"], *(found["ensembles"][name] for name in ("single", "bagged"))
    assert as_often["retrains"] == 2 * J
    best = []
    for s, run in enumerate(runs):
        own = load_ensemble(run.ensemble("single")).dictionary.detach().double()
        others = [
            load_ensemble(other.ensemble("bagged")).dictionary.detach().double()
            for t, other in enumerate(runs)
            if t != s
        ]
        best.append(float((own @ torch.cat(others).T).max(dim=1).values.mean()))
    assert as_often["pooled"] == pytest.approx(np.mean(best), abs=1e-6)
    assert bagged["pooled"] > single["pooled"] + 0.02
    assert as_often["pooled"] == pytest.approx(bagged["pooled"], abs=0.02)
    assert as_often["null_pooled"] == pytest.approx(bagged["null_pooled"], abs=0.02)


def test_the_same_runs_give_the_same_files_and_the_summary_tells_of_them(runs: list[Run]) -> None:
    paths = [runs[0].evaluation("stability"), runs[0].evaluation_table("stability")]
    before = [path.read_bytes() for path in paths]
    evaluate_retrains(runs[0], runs[1:])
    assert [path.read_bytes() for path in paths] == before
    rows = {row["ensemble"]: row for row in summarize(runs[0])}
    figures = read_json(paths[0])["ensembles"]
    for name, row in rows.items():
        assert (row["retrains"], row["retrain_stability"]) == (3, figures[name]["pw_mcc"])
        assert as_text(row)["stability over 3 runs"] == f"{figures[name]['pw_mcc']:.2f}"
    assert all("stability over" not in key for row in summarize(runs[1]) for key in as_text(row))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sae.width": 2 * N}, r"sae\.width is 80 there, 40 here"),
        ({"model.layer": 2}, r"model\.layer is 2 there, 4 here"),
        ({"model.name": "gpt2"}, r"model\.name is 'gpt2' there"),
        ({"training.tokens": 5}, r"training\.tokens is 5 there"),
        ({"training.member_k": [1, 2, 3]}, r"training\.member_k is"),
    ],
)
def test_runs_that_differ_in_more_than_seeds_are_refused(
    runs: list[Run], tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=rf"is no retrain of .*: {message}"):
        evaluate_retrains(runs[0], [write_run(tmp_path / "other", 7, **settings)])


def test_runs_that_are_not_independent_are_refused(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained on other activations"):
        evaluate_retrains(runs[0], [write_run(tmp_path / "text", 7, text="other")])
    with pytest.raises(UserError, match=r"both have training\.seed 0"):
        evaluate_retrains(runs[0], [write_run(tmp_path / "again", 0)])
    with pytest.raises(UserError, match=r"both have training\.seed 1"):
        evaluate_retrains(runs[0], [runs[1], write_run(tmp_path / "twice", 1)])
    seeded = [write_run(tmp_path / f"m{seed}", seed, **{"training.member_seeds": [4, 5, 6]}) for seed in (8, 9)]
    with pytest.raises(UserError, match=r"both have training\.member_seeds \(4, 5, 6\)"):
        evaluate_retrains(seeded[0], seeded[1:])
    # Settings that only say how it is computed, or how much is evaluated, may differ.
    free = {"training.kernels": "plain", "training.methods": ["single"], "evaluation.bootstrap": 7}
    evaluate_retrains(seeded[0], [write_run(tmp_path / "free", 10, methods=("single",), **free)])
    found = read_json(seeded[0].evaluation("stability"))
    assert (list(found["ensembles"]), found["single_as_often"]) == (["single"], None)
    with pytest.raises(UserError, match="no ensemble in common"):
        evaluate_retrains(seeded[0], [write_run(tmp_path / "none", 11, methods=())])


def test_activations_of_different_known_dictionaries_are_no_retrains(tmp_path: Path) -> None:
    known = {"model.name": "known", "text.source": "known"}
    first, second = (write_run(tmp_path / f"seed{seed}", seed, **known) for seed in (0, 1))
    with pytest.raises(UserError, match="trained on other activations"):
        evaluate_retrains(first, [second])
    alike = [write_run(tmp_path / f"alike{seed}", seed, **known, **{"truth.seed": 3}) for seed in (0, 1)]
    evaluate_retrains(alike[0], alike[1:])


def test_a_folder_of_runs_gives_all_but_the_run_itself(runs: list[Run], tmp_path: Path) -> None:
    ticks = []
    retrains = pipeline.retrains_of(runs[1], [runs[0].path.parent, runs[2].path])
    evaluate_retrains(runs[1], retrains, progress=ticks.append)
    assert read_json(runs[1].evaluation("stability"))["runs"] == [
        {"run": f"seed_{seed:02d}", "seed": seed} for seed in (1, 0, 2)
    ]
    assert (ticks[-1].done, ticks[-1].total, ticks[-1].unit) == (3, 3, "pairs")
    with pytest.raises(UserError, match=r"is the run itself, which is no retrain of it"):
        pipeline.retrains_of(runs[1], [runs[1].path])
    with pytest.raises(UserError, match="holds no run"):
        pipeline.retrains_of(runs[1], [tmp_path])


def test_the_command_measures_and_refuses(runs: list[Run], tmp_path: Path) -> None:
    run = write_run(tmp_path / "one" / "run", 20)
    outcome = call("evaluate", run.path, "--retrain", runs[0].path, "--retrain", runs[1].path)
    assert outcome.code == 0, outcome.err
    assert "stability over 3 runs" in outcome.out
    write_run(tmp_path / "one" / "other", 21, **{"sae.k": 4})
    for arguments, message in (
        ((run.path, "--retrain", tmp_path / "one" / "other"), "sae.k is 4 there, 3 here"),
        ((tmp_path / "one", "--retrain", runs[0].path), "--retrain goes with one"),
    ):
        outcome = call("evaluate", *arguments)
        assert outcome.code == 2
        assert message in " ".join(outcome.err.split())
        assert "Traceback" not in outcome.err
