"""Activations of small models of seven families against their plain forward passes, text by text and unpadded."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FAMILIES, MAX_TOKENS, build_model, build_model_folder, build_tokenizer, sample_texts
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM, T5Config

from sae_core.activations.origins.language_model import reading as language_model
from sae_core.activations.origins.language_model import tokenized
from sae_core.activations.origins.language_model.model import embedded_model as embedded
from sae_core.activations.origins.language_model.model import loading
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.text import hub
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings, Site

CAUSAL = [family for family in FAMILIES if family != "bert"]
LAYERS = 3
SITES = ("residual", "mlp", "attention")
# Lengths that make padding, a text with characters of several bytes, and one that names a special token.
TEXTS = [
    *sample_texts(5, seed=3),
    "é 你好 🙂",
    "The <|bos|> of a text <|end|>",
    *sample_texts(2, seed=4, sentences=(5, 6)),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: build_model_folder(root / family, family, layers=LAYERS) for family in FAMILIES}


def load(folder: Path, **settings: object) -> LanguageModel:
    return LanguageModel.load(ModelSettings.model_validate({"name": str(folder), "layer": 1} | settings))


@cache
def plain_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@cache
def plain_model(folder: Path) -> nn.Module:
    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def plain_ids(folder: Path, text: str) -> tuple[list[int], slice]:
    """All ids of a text, and where the ordinary ones are, by construction of the test tokenizers."""
    ordinary = plain_tokenizer(folder)(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ([0, *ordinary, 2], slice(1, -1)) if folder.name == "bert" else ([0, *ordinary], slice(1, None))


def block_of(base: nn.Module, layer: int) -> nn.Module:
    path = next(path for path in ("layers", "h", "encoder") if hasattr(base, path))
    return base.get_submodule({"encoder": "encoder.layer"}.get(path, path))[layer]  # type: ignore[index,no-any-return]


@cache
def stream(folder: Path, text: str, layer: int) -> dict[str, Tensor]:
    """What the block and its parts add for each ordinary token, from hooks around norms in a plain forward pass."""
    base, family = plain_model(folder), folder.name
    block = block_of(base, layer)
    seen: dict[str, Tensor] = {}
    handles = []

    def first(values: Any) -> Tensor:
        return values if isinstance(values, Tensor) else values[0]

    def record(path: str, before: str = "", after: str = "") -> None:
        module = block.get_submodule(path)
        handles.append(module.register_forward_pre_hook(lambda _m, args: args and seen.update({before: first(args)})))
        handles.append(module.register_forward_hook(lambda _m, _a, out: seen.update({after: first(out)})))

    record("", before="start", after="residual")
    if family == "bert":
        record("attention.output.LayerNorm", before="middle", after="middle normed")
        record("output.LayerNorm", before="end")
    elif family == "gpt_neox":
        record("attention", after="attention")
    else:
        norms = {"gpt2": "ln_2", "gemma2": "pre_feedforward_layernorm"}
        record(norms.get(family, "post_attention_layernorm"), before="middle")
    ids, ordinary = plain_ids(folder, text)
    with torch.no_grad():
        hidden = base(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    if layer < LAYERS - 1:  # behind the last block transformers applies the final norm
        assert torch.equal(seen["residual"], hidden[layer + 1])
    if family == "bert":
        seen |= {"attention": seen["middle"] - seen["start"], "mlp": seen["end"] - seen["middle normed"]}
    elif family == "gpt_neox":
        seen["mlp"] = seen["residual"] - seen["start"] - seen["attention"]
    else:
        seen |= {"attention": seen["middle"] - seen["start"], "mlp": seen["residual"] - seen["middle"]}
    return {site: seen[site][0, ordinary] for site in SITES}


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_equal_the_plain_forward_pass(folders: dict[str, Path], family: str, site: str) -> None:
    folder = folders[family]
    for layer in (0, LAYERS - 1):
        model = load(folder, layer=layer, site=site, batch_size=4)
        (batch,) = model.activations(TEXTS)
        assert batch.acts_TD.dtype == torch.float32
        for number, text in enumerate(TEXTS):
            ids, ordinary = plain_ids(folder, text)
            rows = batch.document_T == number
            assert batch.tokens_T[rows].tolist() == ids[ordinary]
            torch.testing.assert_close(batch.acts_TD[rows], stream(folder, text, layer)[site], atol=2e-4, rtol=1e-4)


def test_families_differ_in_what_their_blocks_add(folders: dict[str, Path]) -> None:
    """Guards the test above: a site must not be mistaken for another without it noticing."""
    for folder in folders.values():
        acts = {site: next(load(folder, site=site).activations(TEXTS)).acts_TD for site in SITES}
        assert (acts["mlp"] - acts["attention"]).abs().max() > 0.1
        assert (acts["mlp"] - acts["residual"]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_batch_size_changes_nothing(folders: dict[str, Path], family: str) -> None:
    texts = sample_texts(23, seed=5)
    alone, together = (next(load(folders[family], batch_size=size).activations(texts)) for size in (1, 8))
    assert torch.equal(alone.tokens_T, together.tokens_T)
    assert torch.equal(alone.document_T, together.document_T)
    torch.testing.assert_close(alone.acts_TD, together.acts_TD, atol=1e-4, rtol=1e-4)


def test_batches_hold_whole_texts_and_can_be_resumed_bit_by_bit(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = sample_texts(40, seed=6)
    model = load(folders["llama"], batch_size=4)
    whole = torch.cat([batch.acts_TD for batch in model.activations(texts)])
    monkeypatch.setattr(language_model, "WINDOW_BYTES", 4 * model.d_model * 100)
    monkeypatch.setattr(tokenized, "TEXTS_PER_CALL", 7)
    batches = list(model.activations(texts))
    assert len(batches) > 3
    documents = torch.cat([batch.document_T for batch in batches])
    assert torch.equal(documents, documents.sort().values)
    assert set(documents.tolist()) == set(range(40))
    torch.testing.assert_close(torch.cat([batch.acts_TD for batch in batches]), whole, atol=1e-4, rtol=1e-4)
    start = int(batches[2].document_T[0])
    assert int(batches[1].document_T[-1]) == start - 1
    again = torch.cat([batch.acts_TD for batch in model.activations(texts[start:])])
    assert torch.equal(again, torch.cat([batch.acts_TD for batch in batches[2:]]))


def test_batches_are_those_that_are_run(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*sample_texts(30, seed=7), "", *sample_texts(4, seed=8, sentences=(5, 6))]
    model = load(folders["llama"], batch_size=6)
    monkeypatch.setattr(language_model, "WINDOW_BYTES", 4 * model.d_model * 200)
    monkeypatch.setattr(language_model, "CPU_TOKENS", 100)
    expected = list(model.batches(texts))
    run: list[int] = []

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Embedding):
            run.append(arguments[0].numel())

    with register_module_forward_pre_hook(note):
        list(model.activations(texts))
        assert len(run) > 8
        assert [cells for _, cells in expected] == run
        assert sorted(text for batch, _ in expected for text in batch) == sorted(filter(None, texts))
        # By itself a batch is the same one again.
        run.clear()
        for batch, _ in expected:
            list(model.activations(batch))
        assert [cells for _, cells in expected] == run


@pytest.mark.parametrize("site", SITES)
def test_a_model_in_bfloat16_gives_nearly_the_same(folders: dict[str, Path], site: Site) -> None:
    """As on a GPU: rounding must not be mistaken for parts that do not add up."""
    for family in FAMILIES:
        settings = ModelSettings(name=str(folders[family]), layer=1, site=site)
        model, tokenizer, _ = loading.load_model(settings, device="cpu")
        (rounded,) = LanguageModel(model.bfloat16(), tokenizer, settings).activations(TEXTS)
        (exact,) = load(folders[family], site=site).activations(TEXTS)
        assert rounded.acts_TD.dtype == torch.float32
        assert (rounded.acts_TD - exact.acts_TD).norm() / exact.acts_TD.norm() < 0.05


def test_special_tokens_named_in_a_text_are_ordinary(folders: dict[str, Path]) -> None:
    model = load(folders["bert"])
    (ids,) = model.token_ids(["a <|bos|> b"])
    assert not {0, 1, 2} & set(ids.tolist())
    assert model.tokenizer.decode(ids) == "a <|bos|> b"
    assert next(model.activations(["a <|bos|> b"])).tokens_T.tolist() == ids.tolist()


def test_texts_without_tokens_have_no_activations(folders: dict[str, Path]) -> None:
    for family in ("gpt2", "bert"):
        model = load(folders[family])
        assert next(model.activations(["", "the index", ""])).document_T.unique().tolist() == [1]
        assert list(model.activations(["", ""])) == []
        assert list(model.activations([])) == []


def test_texts_are_cut_to_the_context_and_to_what_the_model_takes(folders: dict[str, Path]) -> None:
    long = " ".join(sample_texts(60, seed=7))
    for family, special in (("llama", 1), ("gpt2", 1), ("bert", 2)):
        assert len(next(load(folders[family], context=20).activations([long])).tokens_T) == 20 - special
        assert len(next(load(folders[family], context=5000).activations([long])).tokens_T) == MAX_TOKENS - special
        assert len(next(load(folders[family]).activations([long], context=9)).tokens_T) == 9 - special
        assert len(load(folders[family]).token_ids([long], context=9)[0]) == 9 - special


def test_nothing_behind_the_site_is_computed(folders: dict[str, Path]) -> None:
    model = load(folders["llama"], site="attention")
    run: list[str] = []
    for name, module in model._base.named_modules():
        module.register_forward_hook(lambda *_, name=name: run.append(name))
    next(model.activations(TEXTS))
    assert "layers.0.mlp" in run
    assert not {"layers.1.mlp", "layers.2.mlp", "norm"} & set(run)


@pytest.mark.parametrize("family", CAUSAL)
def test_lens_turns_the_last_residual_into_the_models_logits(folders: dict[str, Path], family: str) -> None:
    model = load(folders[family], layer=LAYERS - 1)
    lens = model.lens()
    assert lens is not None
    acts_TD = next(model.activations([TEXTS[0]])).acts_TD
    if family in ("gpt2", "gpt_neox"):
        acts_TD = acts_TD - acts_TD.mean(dim=1, keepdim=True)
    normed_TD = acts_TD / acts_TD.square().mean(dim=1, keepdim=True).sqrt()
    logits_TV = (normed_TD * lens["norm_weight_D"] + lens.get("norm_bias_D", torch.zeros(()))) @ lens["unembed_VD"].T
    assert ("norm_bias_D" in lens) == (family in ("gpt2", "gpt_neox"))
    if family == "gemma2":
        logits_TV = 30 * (logits_TV / 30).tanh()
    plain = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32).eval()
    with torch.no_grad():
        expected_TV = plain(torch.tensor([plain_ids(folders[family], TEXTS[0])[0]])).logits[0, 1:]
    torch.testing.assert_close(logits_TV, expected_TV, atol=2e-3, rtol=1e-3)


def test_an_encoder_has_no_lens(folders: dict[str, Path]) -> None:
    assert load(folders["bert"]).lens() is None


def test_attributes_and_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    model = load(folders["qwen3"])
    assert (model.name, model.d_model, model.n_layers, model.device) == (str(folders["qwen3"]), 32, LAYERS, "cpu")
    model.token_ids([TEXTS[5]], context=2)  # cut, which a fast tokenizer keeps in mind
    model.save_tokenizer(tmp_path / "tokenizer")
    model.save_tokenizer(tmp_path / "tokenizer")
    assert json.loads((tmp_path / "tokenizer" / "tokenizer.json").read_text())["truncation"] is None
    again = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert again.decode(model.token_ids([TEXTS[5]])[0]) == TEXTS[5]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


def test_loading_says_nothing(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    next(load(folders["bert"]).activations(TEXTS))
    out, err = capfd.readouterr()
    assert out + err == ""


def test_a_layer_out_of_range_is_refused_with_the_number_of_layers(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"has 3 layers, so model.layer must be 0 to 2, not 3"):
        load(folders["gpt2"], layer=3)


def test_an_unknown_model_without_a_hub_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    with pytest.raises(UserError, match=r"'nobody/nothing' is neither a folder nor in the local cache, and the hub"):
        load(Path("nobody/nothing"))
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        load(Path("/no/such/folder"))


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "is_offline_mode", lambda: True)
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("the hub was asked"))
    assert not hub.is_reachable()


def test_the_hub_is_asked_once_with_a_short_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    class Session:
        def head(self, _address: str, *, timeout: float) -> None:
            asked.append(timeout)
            if len(asked) > 1:
                raise ConnectionError

    monkeypatch.setattr(hub.constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(hub, "get_session", Session)
    assert hub.is_reachable()
    assert not hub.is_reachable()
    assert asked == [hub.TIMEOUT_SECONDS] * 2


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("gpt2", True),
        ("EleutherAI/pythia-70m", True),
        ("a/b/c", False),
        ("/tmp/x", False),
        ("../x", False),
        ("", False),
    ],
)
def test_hub_ids(name: str, good: bool) -> None:
    assert hub.is_hub_id(name) is good


def test_folders_that_hold_no_usable_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model \(no config.json\)"):
        load(tmp_path)
    build_model().save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="its tokenizer cannot be loaded"):
        load(tmp_path / "bare")
    folder = build_model_folder(tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="it cannot be loaded"):
        load(folder)
    T5Config(num_layers=2).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="is an encoder-decoder"):
        load(tmp_path / "t5")


def test_the_embedded_model_is_found_in_a_wheel_before_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "PACKAGE", tmp_path / "sae_core")
    with pytest.raises(UserError, match="The embedded language model is missing"):
        LanguageModel.load(ModelSettings())
    checkout = build_model_folder(tmp_path / "data" / "docstring-lm", layers=4)
    assert embedded.model_folder() == checkout
    assert LanguageModel.load(ModelSettings(layer=3)).name == "embedded"
    wheel = build_model_folder(tmp_path / "sae_core" / "embedded_data" / "docstring-lm")
    assert embedded.model_folder() == wheel


def test_a_block_whose_parts_do_not_add_up_is_refused(tmp_path: Path) -> None:
    """Bloom's attention returns its output with the residual already added."""
    config = BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=2)
    torch.manual_seed(0)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    assert next(load(tmp_path).activations(TEXTS)).acts_TD.shape[1] == 32
    with pytest.raises(UserError, match=r"set model\.site to residual"):
        load(tmp_path, site="mlp")
