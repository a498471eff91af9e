"""Activations of any module of a block: what the module gives, checked by what it does and refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import build_model, build_tokenizer, sample_texts

from sae_core.activations import harvest
from sae_core.activations.origins.language_model.reading import LanguageModel, Place
from sae_core.activations.origins.language_model.substitution import SubstitutedModel
from sae_core.activations.stages import CORPUS
from sae_core.analysis.atoms.stage import LENS
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run, layer_folder
from sae_core.foundation.settings.run_settings import ModelSettings, RunSettings

TEXTS = sample_texts(5, seed=3)


def read(site: str, family: str = "llama", places: tuple[Place, ...] = ()) -> torch.Tensor:
    settings = ModelSettings(name="small", layer=1, site=site, context=64)
    model = LanguageModel(build_model(family), build_tokenizer(family), settings, places=places)
    (batch,) = model.activations(TEXTS)
    return batch.acts_PTD


def by_hand(name: str, family: str) -> torch.Tensor:
    """What a module gives for all ordinary tokens, text by text with a plain hook."""
    model, tokenizer, seen = build_model(family), build_tokenizer(family), []
    model.get_submodule(name).register_forward_hook(
        lambda _module, _args, output: seen.append((output[0] if isinstance(output, tuple) else output)[0, 1:])
    )
    for text in TEXTS:
        model(torch.tensor([tokenizer(text)["input_ids"][:64]]))
    return torch.cat(seen).detach()


@pytest.mark.parametrize(
    ("family", "site", "name"),
    [
        ("llama", "model.layers.*.mlp", "model.layers.1.mlp"),
        ("llama", "layers.*.mlp.act_fn", "model.layers.1.mlp.act_fn"),
        ("llama", "model.layers.*.self_attn", "model.layers.1.self_attn"),
        ("gpt_neox", "gpt_neox.layers.*.attention.query_key_value", "gpt_neox.layers.1.attention.query_key_value"),
    ],
)
def test_a_pattern_reads_what_its_module_gives(family: str, site: str, name: str) -> None:
    (acts_TD,) = read(site, family)
    assert torch.allclose(acts_TD, by_hand(name, family), atol=1e-5)


def test_a_named_part_is_that_part_and_places_are_read_together() -> None:
    together = read("residual", places=(Place(1, "model.layers.*.mlp"), Place(1, "mlp"), Place(0, "residual")))
    assert torch.equal(together[0], together[1])
    assert torch.equal(read("model.layers.*")[0], read("residual")[0])
    with pytest.raises(UserError, match=r"of one dimension, not 64 at model\.layers\.\*\.mlp\.act_fn, 32 at mlp"):
        read("residual", places=(Place(1, "model.layers.*.mlp.act_fn"), Place(1, "mlp")))


@pytest.mark.parametrize(
    ("site", "said"),
    [
        (
            "model.layers.*.mpl",
            r"names model\.layers\.1\.mpl, and the model .* holds self_attn, mlp",
        ),
        ("model.layers.*.mlp.nothing", "has no such module"),
        ("model.layers.*.self_attn.rotary", "has no such module"),
    ],
)
def test_what_is_no_module_of_the_block_is_refused_by_name(site: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(site)


def test_a_module_that_gives_no_activation_a_token_is_refused() -> None:
    model = build_model()

    class Flat(torch.nn.Module):
        def forward(self, acts_BLD: torch.Tensor) -> torch.Tensor:
            return acts_BLD.flatten(0, 1)

    class Around(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.flat, self.unused = inner, Flat(), torch.nn.Identity()

        def forward(self, acts_BLD: torch.Tensor) -> torch.Tensor:
            self.flat(acts_BLD)
            return self.inner(acts_BLD) + 0 * self.inner(acts_BLD)

    model.model.layers[1].mlp = Around(model.model.layers[1].mlp)
    for part, said in (
        ("flat", r"gives a tensor \[\d+, 32\] "),
        ("unused", "0 times"),
        ("inner", "2 times"),
    ):
        settings = ModelSettings(name="small", layer=1, site=f"model.layers.*.mlp.{part}", context=64)
        with pytest.raises(UserError, match=said):
            LanguageModel(model, build_tokenizer(), settings)


@pytest.mark.parametrize("site", ["model.layers.3.mlp", "*.a.*", "mlp*", "model..*", "../*", "mlps"])
def test_a_site_is_one_of_three_or_a_name_with_a_star(site: str) -> None:
    with pytest.raises(ValueError, match="with \\* for the layer"):
        ModelSettings(site=site)


def test_a_run_of_a_pattern_is_gathered_put_back_and_promotes_no_tokens(tmp_path: Path) -> None:
    build_model().save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in sample_texts(60)))
    settings = RunSettings.model_validate(
        {
            "text": {"source": str(tmp_path / "text.jsonl")},
            "model": {"name": str(tmp_path / "model"), "layer": 1, "site": "layers.*.mlp.act_fn", "context": 40},
            "data": {"train_tokens": 300, "index_tokens": 100, "evaluation_tokens": 60},
            "training": {"device": "cpu"},
        }
    )
    run = Run.create(tmp_path / "run", settings)
    harvest.harvest(run)
    assert CORPUS.facts(run)["d_in"] == harvest.train_cache(run).d_in == 64
    assert "output of layers.1.mlp.act_fn" in settings.origin.described(settings)
    assert "need not be added to the residual stream" in LENS.skipped(run, "bagged")
    passages = next(SubstitutedModel.load(settings.model).passages(TEXTS, tokens=200))
    assert passages.acts_TD.shape[1] == 64
    assert passages.substitute(passages.acts_TD).kl_B.max() < 1e-4
    assert passages.substitute(torch.zeros_like(passages.acts_TD)).kl_B.min() > 1e-4
    assert layer_folder(tmp_path, 2, "layers.*.mlp").name == "layer_02_layers.N.mlp"
