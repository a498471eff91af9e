"""Shapes of language models: their operations against a count by hand and by torch, their weights as published."""

from __future__ import annotations

import pytest
import torch
from models import FAMILIES, build_model
from torch.utils.flop_counter import FlopCounterMode

from sae_core.activations.origins.language_model.model.finding_shape import find_shape, shape_of
from sae_core.activations.origins.language_model.model.shapes import KNOWN, ModelShape
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings


def test_operations_of_a_small_transformer_by_hand() -> None:
    shape = ModelShape("llama", 3, 8, heads=2, kv_heads=1, head_dim=4, mlp=16, mlp_matrices=3, vocabulary=50)
    # Queries and output 8·8 each, keys and values 8·4 each, three MLP matrices 8·16 each.
    assert shape.block_weights == 64 + 64 + 32 + 32 + 3 * 128 == 576
    assert shape.weights() == 400 + 3 * 576
    # 5 tokens: twice the weights each; scores and weighted sums 2·5·5·4 each, for two heads.
    assert shape.forward_flops(5, blocks=2) == 2 * (2 * 5 * 576 + 2 * 2 * (2 * 5 * 5 * 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts_in_a_real_model(family: str) -> None:
    model = build_model(family)
    model.set_attn_implementation("eager")  # of fused attention torch's counter knows nothing on a CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.base_model(input_ids=torch.arange(20)[None])
    assert counter.get_total_flops() == shape_of(model.config).forward_flops(20, blocks=3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("EleutherAI/pythia-70m", 70.4),
        ("EleutherAI/pythia-160m-deduped", 162.3),
        ("gpt2", 124.4),
        ("google/gemma-2-2b", 2614),
    ],
)
def test_known_shapes_have_as_many_parameters_as_published(name: str, millions: float) -> None:
    shape = find_shape(ModelSettings(name=name, layer=2))
    assert shape.weights() / 1e6 == pytest.approx(millions, rel=0.01)  # vectors and positions are left out


def test_shape_of_the_embedded_model_and_of_a_layer_too_high() -> None:
    assert find_shape(ModelSettings()) == ModelShape(
        "llama", 6, 192, heads=3, kv_heads=3, head_dim=64, mlp=512, mlp_matrices=3, vocabulary=10240, context=512
    )
    with pytest.raises(UserError, match=r"'gpt2' has 12 layers, so model\.layer must be 0 to 11, not 12\."):
        find_shape(ModelSettings(name="gpt2", layer=12))
    assert len({shape.d_model for shape in KNOWN.values()}) == 3
