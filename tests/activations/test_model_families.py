"""Small models of many families with random weights against their own code: one text at a time, by hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from models import build_tokenizer, sample_texts
from torch import Tensor, nn

from sae_core.activations.origins.language_model.model.lens import lens_logits
from sae_core.activations.origins.language_model.reading import LanguageModel, Place
from sae_core.activations.origins.language_model.substitution import SubstitutedModel, UnpredictingError
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings

D, LAYERS, CONTEXT = 32, 3, 40
IDS: dict[str, Any] = {"vocab_size": 400, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
SIZE: dict[str, Any] = {
    **{"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 64},
    "max_position_embeddings": 66,
}
COMMON = IDS | SIZE
GROUPED = COMMON | {"num_key_value_heads": 1, "head_dim": 16}
OLD = IDS | {"n_embd": D, "n_layer": LAYERS, "n_head": 2, "n_positions": 66}
OPT = IDS | {"hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "ffn_dim": 64}
TEXTS = [*sample_texts(3, seed=3), "é 你好 🙂", *sample_texts(1, seed=4, sentences=(4, 5))]
PROTEINS = ["MLAGVSERTIDPKQ", "MKV", "MLAGVSERTIDPKQNFYHWCLAGVSERTIDPKQ"]


@dataclass(frozen=True)
class Family:
    """How a model of the family is made, and what is known of its code.

    Attributes:
        make: The class and the configuration.
        blocks: Where its blocks are in the model without its head.
        state: How many hidden states it reports before the output of its first block.
        sites: Whether what attention and MLP add to the residual stream can be read.
        tokenizer: fast, bytes (ByT5, in Python) or letters (ESM, in Python).
        takes: Tokens of a text that it takes, if fewer than `CONTEXT`.
    """

    make: Callable[[], Any]
    blocks: str
    state: int = 1
    sites: bool = True
    tokenizer: str = "fast"
    takes: int = CONTEXT


def both(model: type, config: Any) -> Callable[[], Any]:
    return lambda: model(config)


NARROW = COMMON | {"embedding_size": 16}
SHORT = COMMON | {"max_position_embeddings": 34}
CAUSAL = {
    "gpt2": Family(both(hf.GPT2LMHeadModel, hf.GPT2Config(**OLD)), "h", tokenizer="bytes"),
    "gpt_neox": Family(both(hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig(**COMMON)), "layers"),
    "llama": Family(both(hf.LlamaForCausalLM, hf.LlamaConfig(**GROUPED)), "layers"),
    "mistral": Family(both(hf.MistralForCausalLM, hf.MistralConfig(**GROUPED)), "layers"),
    "gemma": Family(both(hf.GemmaForCausalLM, hf.GemmaConfig(**GROUPED)), "layers"),
    "gemma2": Family(both(hf.Gemma2ForCausalLM, hf.Gemma2Config(**GROUPED)), "layers"),
    "qwen2": Family(both(hf.Qwen2ForCausalLM, hf.Qwen2Config(**COMMON, num_key_value_heads=1)), "layers"),
    "qwen3": Family(both(hf.Qwen3ForCausalLM, hf.Qwen3Config(**GROUPED)), "layers"),
    "phi": Family(both(hf.PhiForCausalLM, hf.PhiConfig(**COMMON)), "layers"),
    "falcon": Family(
        both(hf.FalconForCausalLM, hf.FalconConfig(**IDS, hidden_size=D, num_hidden_layers=3, num_attention_heads=2)),
        "h",
    ),
    "bloom": Family(
        both(hf.BloomForCausalLM, hf.BloomConfig(**IDS, hidden_size=D, n_layer=3, n_head=2)), "h", sites=False
    ),
    "gptj": Family(both(hf.GPTJForCausalLM, hf.GPTJConfig(**OLD, rotary_dim=8)), "h"),
    "stablelm": Family(both(hf.StableLmForCausalLM, hf.StableLmConfig(**COMMON, num_key_value_heads=1)), "layers"),
    "granite": Family(
        both(hf.GraniteForCausalLM, hf.GraniteConfig(**COMMON, num_key_value_heads=1, logits_scaling=4.0)), "layers"
    ),
    "olmo": Family(both(hf.OlmoForCausalLM, hf.OlmoConfig(**COMMON)), "layers", tokenizer="bytes"),
    "olmo2": Family(both(hf.Olmo2ForCausalLM, hf.Olmo2Config(**COMMON)), "layers"),
    "starcoder2": Family(
        both(hf.Starcoder2ForCausalLM, hf.Starcoder2Config(**COMMON, num_key_value_heads=1)), "layers"
    ),
    "glm4": Family(both(hf.Glm4ForCausalLM, hf.Glm4Config(**GROUPED)), "layers"),
    "cohere": Family(both(hf.CohereForCausalLM, hf.CohereConfig(**COMMON)), "layers", tokenizer="bytes"),
    "mpt": Family(
        both(hf.MptForCausalLM, hf.MptConfig(vocab_size=400, d_model=D, n_layers=3, n_heads=2, max_seq_len=66)),
        "blocks",
        sites=False,
    ),
    "opt": Family(both(hf.OPTForCausalLM, hf.OPTConfig(**OPT, word_embed_proj_dim=D)), "decoder.layers", sites=False),
    "opt_narrow": Family(
        both(hf.OPTForCausalLM, hf.OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False)),
        "decoder.layers",
        sites=False,
    ),
    "mamba": Family(
        both(hf.MambaForCausalLM, hf.MambaConfig(vocab_size=400, hidden_size=D, num_hidden_layers=3)),
        "layers",
        state=0,
        sites=False,
    ),
    "rwkv": Family(
        both(
            hf.RwkvForCausalLM,
            hf.RwkvConfig(vocab_size=400, hidden_size=D, num_hidden_layers=3, attention_hidden_size=D),
        ),
        "blocks",
        state=0,
        sites=False,
    ),
}
ENCODERS = {
    "bert": Family(both(hf.BertForMaskedLM, hf.BertConfig(**COMMON)), "encoder.layer"),
    "roberta": Family(both(hf.RobertaForMaskedLM, hf.RobertaConfig(**SHORT)), "encoder.layer", takes=32),
    "camembert": Family(both(hf.CamembertForMaskedLM, hf.CamembertConfig(**SHORT)), "encoder.layer", takes=32),
    "electra": Family(both(hf.ElectraForMaskedLM, hf.ElectraConfig(**NARROW)), "encoder.layer"),
    "albert": Family(both(hf.AlbertForMaskedLM, hf.AlbertConfig(**NARROW)), "", sites=False),
    "esm": Family(
        both(
            hf.EsmForMaskedLM,
            hf.EsmConfig(**(COMMON | {"vocab_size": 33}), mask_token_id=32, position_embedding_type="rotary"),
        ),
        "encoder.layer",
        sites=False,
        tokenizer="letters",
    ),
    "fnet": Family(
        both(
            hf.FNetForMaskedLM, hf.FNetConfig(vocab_size=400, hidden_size=D, num_hidden_layers=3, intermediate_size=64)
        ),
        "encoder.layer",
        sites=False,
    ),
    "xlnet": Family(
        both(hf.XLNetLMHeadModel, hf.XLNetConfig(vocab_size=400, d_model=D, n_layer=3, n_head=2, d_inner=64)),
        "",
        sites=False,
    ),
}
FAMILIES = CAUSAL | ENCODERS


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: save(FAMILIES[name], root / name))


def save(family: Family, folder: Path) -> Path:
    torch.manual_seed(0)
    model = family.make().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # scales of ones and biases of zeros would hide mistakes
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.1))
    model.save_pretrained(folder)
    if family.tokenizer == "letters":
        letters = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
        (folder / "vocab.txt").write_text("\n".join(letters.split()))
        hf.EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    elif family.tokenizer == "bytes":
        hf.ByT5Tokenizer().save_pretrained(folder)
    else:
        build_tokenizer().save_pretrained(folder)
    return folder


def plain_ids(tokenizer: Any, text: str, most: int) -> tuple[list[int], list[int]]:
    """Ids of a text, and the places of the ordinary ones."""
    option = {} if isinstance(tokenizer, hf.EsmTokenizer) else {"split_special_tokens": True}
    ids = tokenizer(text, truncation=True, max_length=most, **option)["input_ids"]
    return ids, [place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids]


def load(folder: Path, layer: int = 1, places: Any = ()) -> LanguageModel:
    return LanguageModel.load(ModelSettings(name=str(folder), layer=layer, context=CONTEXT), places=places)


@torch.no_grad()
def own_logits(model: Any, block: nn.Module, hidden_ND: Tensor) -> Tensor:
    """Logits of the model's own code where its last block returns these vectors."""

    def replaced(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (hidden_ND[None], *output[1:]) if isinstance(output, tuple) else hidden_ND[None]

    handle = block.register_forward_hook(replaced)
    logits: Tensor = model(input_ids=torch.arange(3, 3 + len(hidden_ND))[None]).logits[0]
    handle.remove()
    return logits


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_read_as_its_own_code_runs_it(name: str, folder_of: Callable[[str], Path]) -> None:
    family = FAMILIES[name]
    folder = folder_of(name)
    places = [Place(layer, "residual") for layer in range(LAYERS)]
    reader = load(folder, places=places)
    assert (reader.causal, reader.d_model, reader.n_layers) == (name in CAUSAL, D, LAYERS)
    assert reader.context == family.takes
    texts = PROTEINS if family.tokenizer == "letters" else TEXTS
    (batch,) = reader.activations(texts)
    base = hf.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    last = base.get_submodule(family.blocks)[-1] if family.blocks else None  # type: ignore[index]
    seen: list[Tensor] = []
    if last is not None:
        last.register_forward_hook(lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out))
    for number, text in enumerate(texts):
        ids, ordinary = plain_ids(reader.tokenizer, text, reader.context)
        rows = batch.document_T == number
        assert batch.tokens_T[rows].tolist() == [ids[place] for place in ordinary]
        with torch.no_grad():
            states = base(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in range(LAYERS - 1):
            expected = states[layer + family.state][0, ordinary]
            torch.testing.assert_close(batch.acts_PTD[layer][rows], expected, atol=2e-4, rtol=1e-3)
        # Behind the last block most models report what their final norm makes of it.
        expected = (seen.pop() if last is not None else states[-1])[0, ordinary]
        torch.testing.assert_close(batch.acts_PTD[-1][rows], expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", CAUSAL)
def test_lens_and_loss_are_those_of_the_models_own_path(name: str, folder_of: Callable[[str], Path]) -> None:
    family = CAUSAL[name]
    folder = folder_of(name)
    plain = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lens = load(folder, layer=0).lens()
    assert lens is not None
    generator = torch.Generator().manual_seed(1)
    directions_ND = torch.randn(24, D, generator=generator) + 0.5
    last = plain.base_model.get_submodule(family.blocks)[-1]
    own_NV = own_logits(plain, last, 100 * directions_ND) - own_logits(plain, last, 0 * directions_ND)
    ours_NV = lens_logits(directions_ND, lens)
    assert torch.equal(own_NV.topk(10).indices, ours_NV.topk(10).indices)
    ranks = [logits_NV.argsort().argsort().double() for logits_NV in (own_NV, ours_NV)]
    for own_V, ours_V in zip(*ranks, strict=True):
        assert torch.corrcoef(torch.stack([own_V, ours_V]))[0, 1] > 0.9999

    whole = SubstitutedModel.load(ModelSettings(name=str(folder), layer=1, context=CONTEXT))
    groups = list(whole.passages(TEXTS, tokens=10_000))
    assert sum(len(group.predicted_B) for group in groups) == len(TEXTS)
    expected = []
    for text in TEXTS:
        ids, ordinary = plain_ids(whole.tokens._tokenizer, text, CONTEXT)
        with torch.no_grad():
            log_LV = plain(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        expected.append(-sum(float(log_LV[place - 1, ids[place]]) for place in ordinary[1:]))
    found = [float(nats) for group in groups for nats in group.own.cross_entropy_B]
    assert sorted(found) == pytest.approx(sorted(expected), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("bert", "roberta", "camembert", "electra")])
def test_what_the_parts_add_is_read_or_refused(name: str, folder_of: Callable[[str], Path]) -> None:
    family = FAMILIES[name]
    folder = folder_of(name)
    places = [Place(0, "residual"), Place(1, "attention"), Place(1, "mlp"), Place(1, "residual")]
    if not family.sites:
        with pytest.raises(UserError, match=r"set model\.site to residual"):
            load(folder, places=places)
        return
    (batch,) = load(folder, places=places).activations(TEXTS)
    before, attention, mlp, after = batch.acts_PTD
    torch.testing.assert_close(before + attention + mlp, after, atol=1e-4, rtol=1e-3)


def test_a_text_beside_padding_is_read_as_alone_where_a_model_knows_no_mask(folder_of: Callable[[str], Path]) -> None:
    folder = folder_of("fnet")
    reader = load(folder)
    assert any("beside padding" in remark for remark in reader.remarks)
    (together,) = reader.activations(TEXTS)
    alone = torch.cat([batch.acts_TD for text in TEXTS for batch in reader.activations([text])])
    torch.testing.assert_close(together.acts_TD, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_an_encoder_has_no_loss(name: str, folder_of: Callable[[str], Path]) -> None:
    folder = folder_of(name)
    assert load(folder).lens() is None
    with pytest.raises(UnpredictingError, match="is an encoder"):
        SubstitutedModel.load(ModelSettings(name=str(folder), layer=1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: hf.ViTModel(hf.ViTConfig(**{**SIZE, "image_size": 32, "patch_size": 16})),
        lambda: hf.CLIPModel(
            hf.CLIPConfig(text_config=COMMON, vision_config={**SIZE, "image_size": 32, "patch_size": 16})
        ),
        lambda: hf.FunnelForMaskedLM(
            hf.FunnelConfig(vocab_size=400, block_sizes=[1, 1, 1], d_model=D, n_head=2, d_head=16, d_inner=64)
        ),
        lambda: hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**SIZE, vocab_size=32)),
    ],
)
def test_what_is_no_language_model_is_refused_in_a_sentence(make: Callable[[], Any], tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no transformer over text|on text alone|cannot be found") as caught:
        load(tmp_path, layer=0)
    assert "\n" not in str(caught.value)
