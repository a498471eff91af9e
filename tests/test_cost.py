"""Cost figures from closed forms and from what training recorded."""

import pytest

from sae_core.config import SAESettings, load_settings
from sae_core.ensemble import Ensemble, load_ensemble, save_ensemble
from sae_core.errors import UserError
from sae_core.evaluation.cost import inference_flops, measure_cost
from sae_core.files import write_json
from sae_core.run import Run
from sae_core.sae import make_sae

D, N = 6, 20


def make_run(path):
    run = Run.create(path, load_settings(overrides={"training.methods": ["single", "bagged"]}))
    for name, count in (("single", 1), ("bagged", 3)):
        members = [make_sae(SAESettings(width=N, k=2), D, seed=seed) for seed in range(count)]
        save_ensemble(Ensemble(members, wiring="parallel", method=name), run.ensemble(name))
    return run, {folder.name: load_ensemble(folder) for folder in run.ensembles()}


def test_cost_counts_parameters_bytes_and_operations(tmp_path):
    run, ensembles = make_run(tmp_path / "run")
    run.finish("train/bagged", {"seconds": 12.5, "tokens": 3000, "flops": 4.0e9, "shared_seconds": 4.0})
    write_json(run.evaluation("reconstruction"), {"ensembles": {"single": {"l0": 2.0}, "bagged": {"l0": 5.5}}})
    costs = measure_cost(run, ensembles)
    assert list(costs) == ["single", "bagged"]
    one = 2 * D * N + D + N
    assert (costs["single"]["parameters"], costs["bagged"]["parameters"]) == (one, 3 * one)
    # The weights in float32 and a header of less than a kilobyte each.
    assert 3 * 4 * one < costs["bagged"]["bytes"] < 3 * (4 * one + 1024)
    assert costs["bagged"]["inference_flops_per_token"] == 2 * D * 3 * N + 2 * D * 5.5
    assert inference_flops(ensembles["single"], 2.0) == 2 * D * N + 2 * D * 2
    assert (costs["bagged"]["train_seconds"], costs["bagged"]["tokens"]) == (12.5, 3000)
    assert (costs["bagged"]["train_flops"], costs["bagged"]["members"]) == (4.0e9, 3)
    assert costs["single"]["train_seconds"] is costs["single"]["train_flops"] is costs["single"]["tokens"] is None


def test_cost_without_reconstruction_is_refused(tmp_path):
    run, ensembles = make_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"reconstruction\.json does not exist"):
        measure_cost(run, ensembles)
