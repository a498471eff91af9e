"""Replaced activations against plain hooks, text by text in float64, for every causal family; and the loss."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import BOS, FAMILIES, VOCABULARY, build_model, build_tokenizer, sample_texts
from torch import Tensor
from transformers import PreTrainedModel

from sae_core.activations.origins.language_model import substitution
from sae_core.activations.origins.language_model.model.blocks import Block
from sae_core.activations.origins.language_model.model.running import first_output
from sae_core.activations.origins.language_model.model.sites import site_module
from sae_core.activations.origins.language_model.substitution import SubstitutedModel
from sae_core.analysis.reconstruction.loss import measure_loss
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings, Site
from sae_core.sae import SAE, ReLUSAE

D = 32
CAUSAL = [family for family in FAMILIES if family != "bert"]
TEXTS = sample_texts(7, seed=3)


def settings(layer: int = 1, site: Site = "residual") -> ModelSettings:
    return ModelSettings(name="small", layer=layer, site=site, context=24)


tokenizer_of = functools.cache(build_tokenizer)


def fitted_model(family: str = "llama") -> PreTrainedModel:
    """A random model whose unembedding is fitted to predict `TEXTS`, so that its activations are worth something."""
    model = build_model(family, d=D)
    ids = [ordinary_ids(family, text)[0] for text in TEXTS]
    with torch.no_grad():
        hidden_PD = torch.cat(
            [model.base_model(input_ids=torch.tensor([row])).last_hidden_state[0, :-1] for row in ids]
        )
        next_PV = F.one_hot(torch.tensor([token for row in ids for token in row[1:]]), VOCABULARY).float()
        gram_DD = hidden_PD.T @ hidden_PD + torch.eye(D)
        model.get_output_embeddings().weight.copy_(12 * torch.linalg.solve(gram_DD, hidden_PD.T @ next_PV).T)
    return model


def model_of(family: str = "llama", layer: int = 1, site: Site = "residual") -> SubstitutedModel:
    return SubstitutedModel(fitted_model(family), tokenizer_of(family), settings(layer, site))


def ordinary_ids(family: str, text: str) -> tuple[list[int], int]:
    """(ids with BOS in front, number of ids in front that are no ordinary tokens), as the settings cut them."""
    tokenizer = tokenizer_of(family)
    bos = tokenizer.convert_tokens_to_ids(BOS)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [bos, *ids][:24], 1


class Plain:
    """The plain way: hooks on a model in float64, one text, no padding, nothing left out."""

    def __init__(self, family: str, layer: int, site: Site) -> None:
        self.family, self.model = family, fitted_model(family).double()
        blocks = next(m for m in self.model.base_model.modules() if isinstance(m, torch.nn.ModuleList))
        block = Block(blocks[layer], f"layer {layer}")
        self.module = site_module(self.model, block, layer, site)

    @torch.no_grad()
    def run(self, text: str, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(activations of the ordinary tokens, log probabilities where one predicts another, the tokens predicted)."""
        ids, front = ordinary_ids(self.family, text)
        seen: list[Tensor] = []

        def hook(_module: Any, _args: Any, output: Any) -> Any:
            hidden = first_output(output).clone()
            seen.append(hidden[0, front:].clone())
            if change is None:
                return None
            hidden[0, front:] = change(hidden[0, front:])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = self.module.register_forward_hook(hook)
        logits = self.model(input_ids=torch.tensor([ids])).logits[0]
        handle.remove()
        return seen[0], logits[front:-1].log_softmax(dim=-1), torch.tensor(ids[front + 1 :])

    def effect(self, text: str, change: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """(cross-entropy, KL) summed over the predictions of a text."""
        _, own, tokens = self.run(text)
        _, changed, _ = self.run(text, change)
        kl = F.kl_div(changed, own, log_target=True, reduction="sum")
        return float(F.nll_loss(changed, tokens, reduction="sum")), float(kl)


def change(acts_TD: Tensor) -> Tensor:
    """Something that depends on every activation."""
    return 0.6 * acts_TD + 0.3 * acts_TD.flip(-1) + 0.1


CASES = [
    *((family, 1, "residual") for family in CAUSAL),
    *(("llama", layer, "residual") for layer in (0, 2)),
    *((family, 1, site) for family in ("gpt2", "gemma2") for site in ("mlp", "attention")),
    ("llama", 0, "attention"),
]


@pytest.mark.parametrize(("family", "layer", "site"), CASES)
def test_effects_are_those_of_plain_hooks(family: str, layer: int, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substitution, "CPU_LOGITS", VOCABULARY * 24 * 3)  # several groups, and padding
    model, plain = model_of(family, layer, site), Plain(family, layer, site)
    groups = list(model.passages(TEXTS, tokens=10_000))
    assert len(groups) > 1
    found: list[tuple[float, ...]] = []
    for passages in groups:
        effect, again = passages.substitute(change(passages.acts_TD)), passages.substitute(passages.acts_TD)
        columns = (passages.own.cross_entropy_B, effect.cross_entropy_B, effect.kl_B, passages.predicted_B)
        found += list(zip(*columns, strict=True))
        assert np.allclose(again.cross_entropy_B, passages.own.cross_entropy_B, rtol=1e-5)
        assert np.allclose(again.kl_B, 0, atol=1e-4)
    expected = []
    for text in TEXTS:
        _, own, tokens = plain.run(text)
        cross_entropy = float(F.nll_loss(own, tokens, reduction="sum"))
        expected.append((cross_entropy, *plain.effect(text, change), len(tokens)))
    assert np.allclose(sorted(found), sorted(expected), rtol=1e-4)
    assert model._skips is True
    acts = torch.cat([passages.acts_TD for passages in groups])
    theirs = torch.cat([plain.run(text)[0] for text in TEXTS])
    assert np.allclose(acts.sum(dim=0), theirs.sum(dim=0), rtol=1e-4, atol=1e-3)


def test_after_the_last_block_it_is_the_unembedding_of_what_is_put_there() -> None:
    model = model_of("llama", layer=2)
    (passages,) = model.passages(TEXTS[:1], tokens=1000)
    acts_TD = torch.randn(passages.acts_TD.shape, generator=torch.Generator().manual_seed(0))
    plain = fitted_model()
    with torch.no_grad():
        log = plain.lm_head(plain.base_model.norm(acts_TD)).double().log_softmax(dim=-1)
    ids, front = ordinary_ids("llama", TEXTS[0])
    expected = -log[:-1].gather(1, torch.tensor(ids[front + 1 :])[:, None]).sum()
    assert passages.substitute(acts_TD).cross_entropy_B[0] == pytest.approx(float(expected), rel=1e-5)


def test_the_first_whole_texts_are_taken_and_those_that_predict_nothing_passed_over() -> None:
    model = model_of()
    sizes = [len(ordinary_ids("llama", text)[0]) - 1 for text in TEXTS]
    taken = sum(len(passages.acts_TD) for passages in model.passages(TEXTS, tokens=sum(sizes[:3])))
    assert taken == sum(sizes[:3])
    assert [len(passages.acts_TD) for passages in model.passages(TEXTS, tokens=1)] == [sizes[0]]
    assert list(model.passages(["", "a"], tokens=100)) == []


def test_blocks_are_run_where_leaving_them_out_changes_something(monkeypatch: pytest.MonkeyPatch) -> None:
    model, honest = model_of(layer=2), SubstitutedModel.reread

    def broken(self: SubstitutedModel, *args: Any) -> Tensor:
        return honest(self, *args) * (0.5 if self._skips else 1.0)

    monkeypatch.setattr(SubstitutedModel, "reread", broken)
    (passages,) = model.passages(TEXTS[:2], tokens=1000)
    assert model._skips is False
    monkeypatch.undo()
    by_all = passages.substitute(change(passages.acts_TD))
    model._skips = True
    assert np.allclose(by_all.cross_entropy_B, passages.substitute(change(passages.acts_TD)).cross_entropy_B, rtol=1e-6)

    monkeypatch.setattr(SubstitutedModel, "reread", lambda *args: honest(*args) * 0.5)
    with pytest.raises(UserError, match="cannot be put back at layer 1"):
        list(model_of().passages(TEXTS, tokens=100))


def sae(W_dec_ND: Tensor, b_dec_D: Tensor | None = None) -> SAE:
    """A ReLU SAE whose encoder is its decoder's transpose."""
    member = ReLUSAE(W_dec_ND.shape[1], len(W_dec_ND))
    with torch.no_grad():
        member.W_dec.copy_(W_dec_ND)
        member.W_enc.copy_(W_dec_ND.T)
        if b_dec_D is not None:
            member.b_dec.copy_(b_dec_D)
    return member.eval()


def identity(share: float = 1.0) -> SAE:
    """â = share·a, since a is its positive part less its negative part."""
    return sae(share**0.5 * torch.cat([torch.eye(D), -torch.eye(D)]))


@functools.cache
def mean_activation() -> Tensor:
    return torch.cat([passages.acts_TD for passages in model_of().passages(TEXTS, tokens=10_000)]).mean(dim=0)


def test_loss_recovered_is_one_for_the_identity_and_zero_for_what_it_is_measured_against() -> None:
    ensembles = {
        "identity": Ensemble([identity()], wiring="parallel"),
        "nothing": Ensemble([sae(torch.zeros(4, D))], wiring="parallel"),
        "mean": Ensemble([sae(torch.zeros(4, D), mean_activation())], wiring="parallel"),
    }
    found = measure_loss(ensembles, model_of(), TEXTS, mean_activation(), tokens=10_000, bootstrap=50)
    own, zero, mean = (found["cross_entropy"][name] for name in ("model", "zero", "mean"))
    assert own < mean < zero or own < zero < mean
    identical, nothing, average = (found["ensembles"][name] for name in ensembles)
    for key in ("loss_recovered", "kl_recovered", "loss_recovered_mean", "kl_recovered_mean"):
        assert identical[key] == pytest.approx(1.0, abs=1e-4)
    assert (nothing["loss_recovered"], nothing["kl_recovered"]) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert (average["loss_recovered_mean"], average["kl_recovered_mean"]) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert average["loss_recovered"] == pytest.approx((zero - mean) / (zero - own), abs=1e-6)
    assert (identical["cross_entropy"], found["kl"]["model"]) == pytest.approx((own, 0.0), abs=1e-4)
    assert found["tokens"] - found["predictions"] == found["texts"] == len(TEXTS)


def test_every_number_of_members_is_the_ensemble_of_those_and_plain_sums_over_texts() -> None:
    members = [identity(0.5), identity(0.2), identity(0.9)]
    ensembles = {
        "single": Ensemble(members[:1], wiring="parallel"),
        "bagged": Ensemble(members, wiring="parallel", weights=[0.5, 0.3, 0.2]),
        "boosted": Ensemble(members, wiring="residual"),
    }
    found = measure_loss(ensembles, model_of(), TEXTS, mean_activation(), tokens=10_000, bootstrap=300, seed=4)
    plain = Plain("llama", 1, "residual")
    own = [plain.effect(text, lambda acts: acts)[0] for text in TEXTS]
    zero, zero_kl = np.transpose([plain.effect(text, torch.zeros_like) for text in TEXTS])
    for name, ensemble in ensembles.items():
        rows = found["ensembles"][name]["by_members"]
        assert [row["members"] for row in rows] == list(range(1, len(ensemble) + 1))
        for row in rows:
            first = ensemble.first(row["members"]).double()
            effects = np.transpose([plain.effect(text, first) for text in TEXTS])
            ensemble.float()
            assert row["cross_entropy"] == pytest.approx(effects[0].sum() / found["predictions"], rel=1e-4)
            expected = (zero.sum() - effects[0].sum()) / (zero.sum() - np.sum(own))
            assert row["loss_recovered"] == pytest.approx(expected, rel=1e-4)
            assert row["kl_recovered"] == pytest.approx(1 - effects[1].sum() / zero_kl.sum(), rel=1e-3)
            low, high = row["loss_recovered_interval"]
            assert low < row["loss_recovered"] < high
        of_all = {key: value for key, value in found["ensembles"][name].items() if key != "loss_recovered_above"}
        assert {**rows[-1], "by_members": rows} == of_all
    shared = [found["ensembles"][name]["by_members"][0] for name in ("single", "bagged", "boosted")]
    assert shared[0] == shared[1] == shared[2]


def test_the_interval_is_the_spread_of_other_texts() -> None:
    """The bootstrap over texts against samples of other texts."""
    ensembles = {"half": Ensemble([identity(0.4)], wiring="parallel")}
    texts, model = sample_texts(300, seed=8), model_of()

    def recovered(first: int, bootstrap: int = 1) -> dict[str, Any]:
        part = texts[first : first + 12]
        found = measure_loss(ensembles, model, part, mean_activation(), tokens=10_000, bootstrap=bootstrap)
        return dict(found["ensembles"]["half"])

    values = [recovered(first)["loss_recovered"] for first in range(0, 240, 12)]
    low, high = recovered(252, bootstrap=500)["loss_recovered_interval"]
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(values), rel=0.6)


def test_passages_of_one_document_are_drawn_together() -> None:
    ensembles = {"half": Ensemble([identity(0.4)], wiring="parallel")}
    texts, model = sample_texts(12, seed=8), model_of()

    def found(texts: list[str], documents: list[int] | None) -> dict[str, Any]:
        options = {"tokens": 100_000, "bootstrap": 400, "documents": documents}
        return measure_loss(ensembles, model, texts, mean_activation(), **options)  # type: ignore[arg-type]

    def width(measured: dict[str, Any]) -> float:
        low, high = measured["ensembles"]["half"]["loss_recovered_interval"]
        return float(high - low)

    alone, four = found(texts, None), found(texts * 4, list(range(12)) * 4)
    assert (alone["documents"], four["documents"], four["texts"]) == (12, 12, 48)
    # The same documents four times over say nothing new; taken for others they would seem to.
    assert width(four) == pytest.approx(width(alone), rel=0.25)
    assert width(found(texts * 4, None)) < 0.7 * width(alone)


def test_nothing_predicted_and_harmless_ablation_give_no_figure_and_one_text_no_interval() -> None:
    ensembles = {"one": Ensemble([identity()], wiring="parallel")}
    nothing = measure_loss(ensembles, model_of(), ["a", ""], torch.zeros(D), tokens=100)
    assert (nothing["defined"], nothing["predictions"], nothing["cross_entropy"]["model"]) == (False, 0, None)
    assert nothing["ensembles"]["one"]["loss_recovered"] is None
    one = measure_loss(ensembles, model_of(), TEXTS[:1], torch.zeros(D), tokens=100)
    assert one["ensembles"]["one"]["loss_recovered_interval"] == [None, None]
    silent = fitted_model()
    with torch.no_grad():
        silent.lm_head.weight.zero_()  # predicts the same whatever its activations are
    found = measure_loss(
        ensembles, SubstitutedModel(silent, tokenizer_of("llama"), settings()), TEXTS, torch.zeros(D), tokens=1000
    )
    assert found["cross_entropy"]["zero"] == pytest.approx(math.log(VOCABULARY), rel=1e-5)
    assert found["ensembles"]["one"]["loss_recovered"] is None
    assert found["ensembles"]["one"]["cross_entropy"] == pytest.approx(math.log(VOCABULARY), rel=1e-5)
