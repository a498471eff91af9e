"""SAEBench and SAELens' evals run on an ensemble as on one SAE, and find what we find."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import build_tokenizer, sample_texts
from random_saes import random_ensemble
from torch import Tensor

from sae_core.analysis.concepts.probes import Problem, probe_rows
from sae_core.analysis.shared.names_in_tables import PLAIN
from sae_core.analysis.shared.pooling import pool
from sae_core.ensembles.ensemble import Ensemble, Wiring
from sae_core.ensembles.one_sae import OneSAE
from sae_core.foundation.errors import UserError

D = 12
KINDS: list[tuple[Any, Wiring]] = [("topk", "parallel"), ("topk", "residual"), ("jumprelu", "residual")]


def ensemble(kind: Any, wiring: Wiring) -> Ensemble:
    return random_ensemble(kind, wiring, d_in=D)


def activations(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "wiring"), KINDS)
def test_it_encodes_and_decodes_as_the_ensemble_does(kind: Any, wiring: Wiring) -> None:
    ours = ensemble(kind, wiring)
    one = OneSAE(ours, model_name="gpt2", layer=3, site="mlp")
    acts = activations(2, 5)
    coefs = one.encode(acts)
    assert coefs.shape == (2, 5, ours.width)
    torch.testing.assert_close(coefs[1], ours.encode(acts[1]))
    torch.testing.assert_close(one(acts)[1], ours(acts[1]))
    torch.testing.assert_close(one.decode(coefs), coefs @ one.W_dec + one.b_dec)
    assert one.check_decoder_norms()
    assert (one.cfg.hook_name, one.cfg.metadata.hook_name) == ("blocks.3.hook_mlp_out",) * 2
    assert one.cfg.to_dict()["d_sae"] == ours.width


def test_a_site_that_transformer_lens_does_not_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"no hook at 'model\.layers\.\*\.mlp'; the site is one of residual, mlp"):
        OneSAE(ensemble("topk", "parallel"), model_name="gpt2", layer=3, site="model.layers.*.mlp")  # type: ignore[arg-type]


@dataclass
class Batch:
    acts_TD: Tensor
    document_T: Tensor


def texts(seed: int, count: int = 40, length: int = 6) -> dict[str, Tensor]:
    """Activations [texts, tokens, D] of two classes, the second shifted; masked tokens are 0, as SAEBench has them."""
    acts = {"a": activations(count, length, seed=seed), "b": activations(count, length, seed=seed + 1) + 0.4}
    for each in acts.values():
        each[::3, -2:] = 0.0
    return acts


def pooled(ours: Ensemble, classes: dict[str, Tensor]) -> Any:
    """Our pooled features of the texts of all classes, one class after the other."""
    batches, place = [], 0
    for each in classes.values():
        for acts_TD in each:
            kept = acts_TD[acts_TD.sum(dim=1) != 0]
            batches.append(Batch(kept, torch.full((len(kept),), place)))
            place += 1
    return pool({"ours": ours}, batches, place).codes["ours"]


@pytest.mark.interop
@pytest.mark.parametrize(("kind", "wiring"), KINDS)
@pytest.mark.parametrize("m", [1, 5])
def test_saebench_detects_concepts_as_often_as_we_do(kind: Any, wiring: Wiring, m: int) -> None:
    pytest.importorskip("sae_bench", reason="sae-bench is not installed")
    collection = importlib.import_module("sae_bench.sae_bench_utils.activation_collection")
    probing = importlib.import_module("sae_bench.evals.sparse_probing.probe_training")
    ours, sides = ensemble(kind, wiring), (texts(1), texts(11))
    one = OneSAE(ours, model_name="gpt2", layer=0)
    train, test = (collection.get_sae_meaned_activations(side, one, 16) for side in sides)
    # Its steps one by one: the function around them declares shapes that newer versions of jaxtyping refuse.
    (train_acts, train_labels), (test_acts, test_labels) = (
        probing.prepare_probe_data(side, "a") for side in (train, test)
    )
    mask = probing.get_top_k_mean_diff_mask(train_acts, train_labels, m)
    chosen = [probing.apply_topk_mask_reduce_dim(acts, mask) for acts in (train_acts, test_acts)]
    _, theirs = probing.train_sklearn_probe(chosen[0], train_labels, chosen[1], test_labels)
    both = {name: torch.cat([side[name] for side in sides]) for name in ("a", "b")}
    positive = np.arange(80) < 40
    rows = np.concatenate([np.arange(40), 80 + np.arange(40)])
    problem = Problem("task", "a", rows, positive, rows + 40, positive)
    ours_found = probe_rows(pooled(ours, both), [problem], [np.ones((2, 80))], counts=[m], variants=[PLAIN])
    assert ours_found[0]["accuracy"] == pytest.approx(theirs, abs=1.01 / 80)


@pytest.mark.interop
def test_saelens_evaluates_it(tmp_path: Path) -> None:
    lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed")
    package = pytest.importorskip("transformer_lens", reason="transformer-lens is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler
    from transformers import AutoTokenizer

    build_tokenizer("gpt2").save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    config = package.HookedTransformerConfig(
        n_layers=2, d_model=D, n_ctx=32, d_head=6, n_heads=2, d_mlp=24, act_fn="gelu", d_vocab=len(tokenizer), seed=1
    )
    model = package.HookedTransformer(config, tokenizer=tokenizer)
    one = OneSAE(ensemble("topk", "residual"), model_name="small", layer=0, context_size=16)
    data = datasets.Dataset.from_dict({"text": sample_texts(200, seed=3)})
    store = lens.ActivationsStore.from_sae(
        model,
        one,
        context_size=16,
        dataset=data,
        streaming=False,
        store_batch_size_prompts=4,
        n_batches_in_buffer=4,
        device="cpu",
    )
    asked = get_eval_everything_config(4, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=2)
    batches: list[Tensor] = []
    give = store.get_batch_tokens

    def remembered(*given: Any, **named: Any) -> Tensor:
        batches.append(give(*given, **named))
        return batches[-1]

    store.get_batch_tokens = remembered
    figures, by_feature = run_evals(one, store, model, ActivationScaler(), asked, exclude_special_tokens=False)
    with torch.no_grad():
        acts_TD = torch.cat(
            [model.run_with_cache(tokens)[1][one.cfg.hook_name].reshape(-1, D) for tokens in batches[-2:]]
        )
        coefs_TM = one.coder.encode(acts_TD)
        left_TD = acts_TD - one.coder(acts_TD)
    assert figures["sparsity"]["l0"] == pytest.approx(float((coefs_TM > 0).sum(dim=1).float().mean()), rel=1e-4)
    found = figures["reconstruction_quality"]
    assert found["mse"] == pytest.approx(float(left_TD.square().sum(dim=1).mean()), rel=1e-3)
    variance = float((acts_TD - acts_TD.mean(dim=0)).square().sum(dim=1).mean())
    assert found["explained_variance"] == pytest.approx(1 - found["mse"] / variance, abs=1e-3)
    assert len(by_feature["feature_density"]) == one.cfg.d_sae
