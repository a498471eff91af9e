"""The stability of boosted stages beside SAEs trained on Gaussian noise of the residual's mean and covariance."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from random_saes import random_sae
from small_runs import MEMBERS, data, ensembles, new_run, trained

from sae_core.activations.store.cache import CacheWriter
from sae_core.analysis.stability.noise_null import GaussianNoise, residuals_of, stages_over_trainings, trained_on_noise
from sae_core.analysis.stability.retrains import evaluate_retrains
from sae_core.analysis.stability.stability import measure_stability
from sae_core.analysis.summary import as_text, summarize
from sae_core.ensembles.ensemble import Ensemble, save_ensemble
from sae_core.foundation.files.whole_files import read_json
from sae_core.foundation.run import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    found = [trained(folder / f"seed_{seed}", methods=("single", "boosted"), seed=seed) for seed in (0, 1)]
    for run in found:
        run.finish("corpus", {"fingerprint": "same"})
    writer = CacheWriter(found[0].activations / "train", d_in=data().shape[1], dtype="float32", contents="test")
    writer.append(data())
    writer.finish()
    return found


def test_noise_has_the_mean_and_covariance_of_the_activations_and_goes_on_where_it_was() -> None:
    acts_BD = data()
    noise = GaussianNoise.like(acts_BD, rows=len(acts_BD))
    drawn = torch.cat(list(islice(noise.batches(batch_size=2000, seed=3), 40))).double()
    expected = torch.cov(acts_BD.double().T)
    assert torch.allclose(noise.root_DD.double() @ noise.root_DD.double().T, expected, atol=1e-5)
    assert torch.allclose(torch.cov(drawn.T), expected, atol=0.05 * float(expected.diagonal().max()))
    assert torch.allclose(drawn.mean(dim=0), acts_BD.double().mean(dim=0), atol=0.03)
    assert noise.scale == pytest.approx(np.sqrt(len(noise.mean_D) / float(drawn.square().sum(dim=1).mean())), rel=0.02)
    later = next(noise.batches(batch_size=2000, seed=3, first_step=5))
    assert torch.equal(later.double(), drawn[10_000:12_000])
    assert not torch.equal(later, next(noise.batches(batch_size=2000, seed=4, first_step=5)))


def test_residuals_are_what_the_stages_leave(runs: list[Run]) -> None:
    boosted = ensembles(runs[0])["boosted"]
    found = residuals_of(runs[0], "boosted", "cpu")
    assert len(found) == MEMBERS - 1
    energy = [float(left.square().sum()) for left in found]
    acts_BD = data()
    for count, mine in enumerate(energy, start=1):
        whole = (acts_BD - boosted.first(count)(acts_BD)).detach()
        assert mine / len(found[0]) == pytest.approx(float(whole.square().sum()) / len(acts_BD), rel=0.02)


def test_stages_are_compared_by_themselves_beside_noise_and_random_atoms(runs: list[Run]) -> None:
    evaluate_retrains(runs[0], runs[1:])
    own = read_json(runs[0].evaluation("stability"))["ensembles"]
    assert "by_stage" not in own["single"]
    stages = own["boosted"]["by_stage"]
    both = [ensembles(run)["boosted"] for run in runs]
    for number, stage in enumerate(stages):
        figures, _ = measure_stability([each[number].W_dec for each in both])
        for key in ("pw_mcc", "mmcs", "null_matched", "null_best"):
            assert stage[key] == pytest.approx(figures[key], abs=1e-6)
    assert (stages[0]["stage"], stages[0]["noise_matched"]) == (1, None)
    # The null of stage 2: SAEs of both seeds, trained on noise alike.
    noise = GaussianNoise.like(residuals_of(runs[0], "boosted", "cpu")[0], rows=400_000)
    pair = [trained_on_noise(run, noise, 1, device=CPU) for run in runs]
    assert torch.equal(pair[0], trained_on_noise(runs[0], noise, 1, device=CPU))
    assert not torch.equal(pair[0], pair[1])
    figures, _ = measure_stability(pair)
    assert stages[1]["noise_matched"] == pytest.approx(figures["pw_mcc"], abs=1e-6)
    assert stages[1]["noise_best"] == pytest.approx(figures["mmcs"], abs=1e-6)
    row = next(row for row in summarize(runs[0]) if row["ensemble"] == "boosted")
    assert as_text(row)["  trained on such noise"] == f"{figures['pw_mcc']:.3f}"
    assert own["boosted"]["noise"]["reason"] is None
    # Left out, it is not trained, and that is said.
    evaluate_retrains(runs[0], runs[1:], noise=False)
    without = read_json(runs[0].evaluation("stability"))["ensembles"]["boosted"]
    assert "--no-noise-null" in without["noise"]["reason"]
    assert [stage["noise_matched"] for stage in without["by_stage"]] == [None] * MEMBERS


def test_stages_that_are_ensembles_have_no_noise_beside_them_and_it_is_said_why(tmp_path: Path) -> None:
    nested = []
    for seed in (0, 1):
        run = new_run(tmp_path / str(seed), methods=("boosted_bags",), members=4, seed=seed)
        saes = [random_sae("topk", d_in=24, width=30, seed=10 * seed + number).eval() for number in range(4)]
        bags = [Ensemble(saes[first : first + 2], wiring="parallel") for first in (0, 2)]
        save_ensemble(Ensemble(bags, wiring="residual", method="boosted_bags"), run.ensemble("boosted_bags"))
        run.activations.mkdir(parents=True)
        nested.append(run)
    found = stages_over_trainings(nested, "boosted_bags", noise=True, device="cpu")
    assert found is not None
    assert "its stages are ensembles" in found["noise"]["reason"]
    assert [stage["noise_matched"] for stage in found["by_stage"]] == [None, None]
    assert all(0 < stage["mmcs"] < 1 for stage in found["by_stage"])
