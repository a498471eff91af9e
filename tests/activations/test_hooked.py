"""Models of TransformerLens: the activations equal TransformerLens' own cache; the package is optional."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import BOS, VOCABULARY, build_tokenizer, sample_texts
from transformers import AutoTokenizer

from sae_core.activations.origins.language_model.model.finding_shape import find_shape
from sae_core.activations.origins.language_model.model.hooked import HookedModel
from sae_core.activations.origins.language_model.model.loading import load_config
from sae_core.activations.origins.language_model.reading import LanguageModel, Place
from sae_core.activations.origins.language_model.substitution import SubstitutedModel
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings

GELU = ModelSettings(name="transformer-lens:gelu-1l", layer=0, context=32)


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    with pytest.raises(UserError, match=r"gelu-1l' needs the package transformer-lens; run pip install"):
        LanguageModel.load(GELU)
    with pytest.raises(UserError, match=r"solu-2l' needs the package transformer-lens"):
        find_shape(ModelSettings(name="transformer-lens:solu-2l", layer=0))


def test_the_shape_of_gelu_1l_is_known_without_the_package() -> None:
    shape = find_shape(GELU)
    assert (shape.layers, shape.d_model, shape.context) == (1, 512, 1024)
    with pytest.raises(UserError, match=r"has 1 layers, so model.layer must be 0 to 0, not 3"):
        find_shape(GELU.model_copy(update={"layer": 3}))


def small(folder: Path, layers: int = 1) -> Any:
    """A model of the class and the kind of gelu-1l, with random weights."""
    package = pytest.importorskip("transformer_lens", reason="transformer-lens is not installed")
    config = package.HookedTransformerConfig(
        **{"n_layers": layers, "d_model": 32, "n_ctx": 64, "d_head": 16, "n_heads": 2, "d_mlp": 128, "seed": 0},
        **{"act_fn": "gelu", "d_vocab": VOCABULARY, "normalization_type": "LN", "device": "cpu"},
    )
    build_tokenizer("gpt2").save_pretrained(folder)
    model = package.HookedTransformer(config, tokenizer=AutoTokenizer.from_pretrained(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.ndim)))
    return model


@pytest.mark.interop
@pytest.mark.parametrize("layers", [1, 2])
def test_activations_are_those_that_transformer_lens_caches(layers: int, tmp_path: Path) -> None:
    model = small(tmp_path, layers)
    texts = ["", *sample_texts(12, seed=3)]
    tokenizer = model.tokenizer
    names = {"residual": "hook_resid_post", "mlp": "hook_mlp_out", "attention": "hook_attn_out"}
    expected: dict[Place, list[torch.Tensor]] = {Place(layer, site): [] for layer in range(layers) for site in names}
    for text in texts:
        ids = [tokenizer.convert_tokens_to_ids(BOS), *tokenizer(text, add_special_tokens=False)["input_ids"]][:32]
        _, cache = model.run_with_cache(torch.tensor([ids]))
        for place, found in expected.items():
            found.append(cache[f"blocks.{place.layer}.{names[place.site]}"][0, 1:])
    reader = LanguageModel(HookedModel(model), tokenizer, GELU, places=list(expected))
    (batch,) = reader.activations(texts)
    for acts_TD, found in zip(batch.acts_PTD, expected.values(), strict=True):
        torch.testing.assert_close(acts_TD, torch.cat(found), atol=1e-5, rtol=1e-4)


@pytest.mark.interop
@pytest.mark.parametrize("layer", [0, 1])
def test_its_own_predictions_are_kept_and_other_activations_change_them(layer: int, tmp_path: Path) -> None:
    model = small(tmp_path, 2)
    settings = GELU.model_copy(update={"layer": layer})
    whole = SubstitutedModel(HookedModel(model), model.tokenizer, settings)
    texts = sample_texts(5, seed=3)
    groups = list(whole.passages(texts, tokens=10_000))
    surprise = 0.0
    for text in texts:
        ids = [
            model.tokenizer.convert_tokens_to_ids(BOS),
            *model.tokenizer(text, add_special_tokens=False)["input_ids"],
        ]
        loss = model(torch.tensor([ids[:32]]), return_type="loss", loss_per_token=True)
        surprise += float(loss[0, 1:].double().sum())  # but for what BOS predicts
    assert sum(group.own.cross_entropy_B.sum() for group in groups) == pytest.approx(surprise, rel=1e-4)
    for group in groups:
        assert abs(group.substitute(group.acts_TD).kl_B).max() < 1e-3
        assert group.substitute(0 * group.acts_TD).kl_B.min() > 1e-3


@pytest.mark.interop
def test_unknown_names_are_refused_in_one_sentence() -> None:
    pytest.importorskip("transformer_lens", reason="transformer-lens is not installed")
    for look in (lambda model: find_shape(model), lambda model: load_config(model)):
        with pytest.raises(UserError, match="no-such-model") as caught:
            look(ModelSettings(name="transformer-lens:no-such-model", layer=0))
        assert "\n" not in str(caught.value)


@pytest.mark.interop
def test_it_is_loaded_unprocessed_and_gives_the_lens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = small(tmp_path)
    package = pytest.importorskip("transformer_lens")
    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **options: Any) -> Any:
        asked.update(name=name, **options)
        return model

    monkeypatch.setattr(package.HookedTransformer, "from_pretrained_no_processing", from_pretrained)
    reader = LanguageModel.load(GELU)
    assert asked == {"name": "gelu-1l", "device": "cpu", "dtype": torch.float32, "default_padding_side": "right"}
    assert (reader.d_model, reader.n_layers, reader.causal, reader.context) == (32, 1, True, 32)
    lens = reader.lens()
    assert lens is not None
    torch.testing.assert_close(lens["unembed_VD"], model.W_U.T)
    torch.testing.assert_close(lens["norm_weight_D"], model.ln_final.w, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(lens["norm_bias_D"], model.ln_final.b)
    reader.save_tokenizer(tmp_path / "tokenizer")
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    with pytest.raises(UserError, match="has 1 layers"):
        LanguageModel.load(GELU.model_copy(update={"layer": 1}))
