"""Boosting of a given SAE: it stays as it is, new ones have no decoder bias and learn what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import WIDTH, D, data, new_run
from sources import TensorSource

from sae_core.ensembles.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.sae import make_sae
from sae_core.training.train import train_run


def given_run(path: Path, *, members: int = 1, **training: Any) -> tuple[Run, Ensemble]:
    """A run with a given SAE of 40 features that knows half of the data, trained on it; and the given one."""
    run = new_run(path, methods=("extended",), boost_from="given", members=members, **training)
    sae = make_sae(run.settings.sae.model_copy(update={"width": 40}), D, seed=5)
    with torch.no_grad():
        sae.b_dec.copy_(data().mean(dim=0))
    given = Ensemble([sae.eval()], wiring="parallel", method="imported")
    save_ensemble(given, run.ensemble("given"))
    train_run(run, source=TensorSource(data()))
    return run, load_ensemble(run.ensemble("given"))


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_new_ones_learn_what_the_given_one_leaves_and_keep_it(kernels: str, tmp_path: Path) -> None:
    run, given = given_run(tmp_path, members=2, kernels=kernels)
    ensemble = load_ensemble(run.ensemble("extended"))
    assert (ensemble.widths, ensemble.wiring, ensemble.weights) == ([40, WIDTH, WIDTH], "residual", [1.0, 1.0, 1.0])
    for name, tensor in given[0].state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(ensemble[0].state_dict()[name], tensor)  # type: ignore[attr-defined]
    assert all(not sae.b_dec.any() for sae in [*ensemble.saes()][1:])
    acts_BD = data()
    ensemble.requires_grad_(False)
    left = [float((acts_BD - ensemble.first(count)(acts_BD)).square().sum()) for count in (1, 2, 3)]
    assert left[2] < left[1] < 0.9 * left[0]
    # So where no new feature fires, the reconstruction is the given one's.
    _, *added = (step.code.dense() @ step.member.dictionary for step in ensemble.walk(acts_BD))
    torch.testing.assert_close(ensemble(acts_BD), given(acts_BD) + added[0] + added[1], rtol=1e-4, atol=1e-4)
    facts = run.facts("train/extended")
    assert (facts["turns"], facts["steps"]) == (2, 60)


def test_the_two_kernels_agree(tmp_path: Path) -> None:
    plain, fast = (
        load_ensemble(given_run(tmp_path / kernels, kernels=kernels, tokens=1000)[0].ensemble("extended"))
        for kernels in ("plain", "fast")
    )
    torch.testing.assert_close(plain[1].dictionary, fast[1].dictionary, rtol=1e-3, atol=1e-4)
    # With a bias the atoms would be others.
    run = new_run(tmp_path / "biased", methods=("boosted",), tokens=1000, members=1)
    train_run(run, source=TensorSource(data()))
    assert not torch.allclose(load_ensemble(run.ensemble("boosted"))[0].dictionary, plain[1].dictionary, atol=1e-2)


def test_it_needs_a_given_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"boost_from no ensemble; give --boost-from SAE"):
        RunSettings.model_validate({"training": {"methods": ["extended"]}})
    run = new_run(tmp_path, methods=("extended",), boost_from="given")
    with pytest.raises(UserError, match=r"ensemble\.json does not exist"):
        train_run(run, source=TensorSource(data()))
