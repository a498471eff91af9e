"""Model folders that lack weights, and tokenizers that read text differently: refused, or reported in a note."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from command_line import call, refused
from huggingface_hub import constants
from models import build_model, build_model_folder, build_tokenizer, sample_texts
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_core.activations.corpus import Corpus
from sae_core.activations.origins.language_model.model import loading
from sae_core.activations.origins.language_model.model.loading import load_model
from sae_core.activations.origins.language_model.model.stored import refuse_codes, weight_files
from sae_core.activations.origins.language_model.model.vocabulary import disarmed, vocabulary_table
from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.activations.origins.language_model.substitution import SubstitutedModel, UnpredictingError
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import ModelSettings

LETTERS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("whole"), "llama")


def changed(whole: Path, folder: Path, change: Callable[[Tensors], Tensors], **config: object) -> Path:
    """A copy of a model folder with other weights and settings."""
    folder.mkdir()
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def without(*parts: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if not any(part in name for part in parts)}


def settings(folder: Path, layer: int = 1) -> ModelSettings:
    return ModelSettings(name=str(folder), layer=layer, context=40)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (without("layers", "norm", "lm_head"), "lacks model.layers.0.self_attn.q_proj.weight and 17 more weights"),
        (without("layers.1.mlp.up_proj"), "lacks model.layers.1.mlp.up_proj.weight:"),
        (without("embed_tokens"), "lacks model.embed_tokens.weight:"),
        (without("model.norm"), "lacks model.norm.weight:"),
        (without("lm_head"), "lacks lm_head.weight:"),
        (lambda tensors: {f"net.{name}": value for name, value in tensors.items()}, "lacks model.embed_tokens.weight"),
        (
            lambda tensors: tensors | {"lm_head.weight": torch.zeros(300, 32)},
            r"has lm_head.weight in another shape \(\(300, 32\) in the file, \(400, 32\) in the model\)",
        ),
    ],
)
def test_weights_that_would_be_random_are_refused_by_name(
    whole: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], first: str
) -> None:
    folder = changed(whole, tmp_path / "model", change)
    with pytest.raises(UserError, match=f"The folder {folder} {first}") as caught:
        LanguageModel.load(settings(folder))
    assert "\n" not in str(caught.value)


def test_blocks_above_the_layer_are_needed_for_the_loss_alone(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "model", without("layers.2"))
    reader = LanguageModel.load(settings(folder))
    complete = LanguageModel.load(settings(whole))
    texts = sample_texts(2, seed=3)
    assert torch.equal(next(reader.activations(texts)).acts_TD, next(complete.activations(texts)).acts_TD)
    lens, expected = reader.lens(), complete.lens()
    assert lens is not None
    assert expected is not None
    assert all(torch.equal(lens[name], expected[name]) for name in expected)
    assert any("no loss can be measured" in remark for remark in reader.remarks)
    with pytest.raises(UnpredictingError, match=r"lacks model\.layers\.2"):
        SubstitutedModel.load(settings(folder))


def test_a_tied_head_is_not_missing_and_a_model_saved_without_one_has_no_lens(whole: Path, tmp_path: Path) -> None:
    tied = LanguageModel.load(settings(changed(whole, tmp_path / "tied", without("lm_head"), tie_word_embeddings=True)))
    lens = tied.lens()
    assert lens is not None
    assert torch.equal(lens["unembed_VD"], load_file(whole / "model.safetensors")["model.embed_tokens.weight"])
    base = changed(whole, tmp_path / "base", without("lm_head"), architectures=["LlamaModel"])
    reader = LanguageModel.load(settings(base))
    assert reader.causal
    assert reader.lens() is None
    assert "hold no head" in (reader.no_lens or "")
    with pytest.raises(UnpredictingError, match="hold no head"):
        SubstitutedModel.load(settings(base))


def test_weights_that_are_left_over_are_said(whole: Path, tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}
    reader = LanguageModel.load(settings(changed(whole, tmp_path / "model", lambda tensors: tensors | extra)))
    assert any("no place for, called model.layers.0.self_attn.q_proj.bias" in remark for remark in reader.remarks)


def test_shards_that_are_absent_are_refused(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "model", without())
    (folder / "model.safetensors").unlink()
    hf.AutoModelForCausalLM.from_pretrained(whole).save_pretrained(folder, max_shard_size="40KB")
    LanguageModel.load(settings(folder))
    sorted(folder.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        LanguageModel.load(settings(folder))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
    ],
)
def test_weights_that_are_stored_as_codes_are_refused(
    whole: Path, tmp_path: Path, dtype: torch.dtype, kind: str
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = changed(whole, tmp_path / "model", lambda tensors: tensors | {name: tensors[name].to(dtype)})
    with pytest.raises(UserError, match=rf"{folder / 'model.safetensors'} holds {name} as {kind}, not as") as caught:
        LanguageModel.load(settings(folder))
    assert "\n" not in str(caught.value)


def test_codes_are_found_in_the_conversion_that_a_pull_request_holds(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Main has no safetensors: transformers then reads those that the hub's robot has proposed."""
    name, commit = "model.norm.weight", 40 * "a"
    coded = changed(whole, tmp_path / "model", lambda tensors: tensors | {name: tensors[name].to(torch.int8)})
    cached = tmp_path / "cache" / "models--someone--something"
    (cached / "snapshots").mkdir(parents=True)
    (cached / "refs" / "refs" / "pr").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    asked = ("someone/something", {"revision": "main"})
    assert weight_files(*asked) == []
    (cached / "refs" / "refs" / "pr" / "7").write_text(commit)
    coded.rename(cached / "snapshots" / commit)
    files = weight_files(*asked)
    assert files == [cached / "snapshots" / commit / "model.safetensors"]
    with pytest.raises(UserError, match=f"holds {name} as I8"):
        refuse_codes(files, hf.AutoModelForCausalLM.from_pretrained(whole), [])


def test_weights_whose_files_are_not_found_again_are_said_to_be_unchecked(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not LanguageModel.load(settings(whole)).remarks
    monkeypatch.setattr(loading, "weight_files", lambda *_args, **_options: [])
    remarks = LanguageModel.load(settings(whole)).remarks
    assert [remark for remark in remarks if "Nobody has checked" in remark]


def test_codes_are_found_in_any_shard_and_under_the_names_of_a_model_without_a_head(
    whole: Path, tmp_path: Path
) -> None:
    def without_prefix(tensors: Tensors) -> Tensors:
        renamed = {name.removeprefix("model."): value for name, value in tensors.items() if "lm_head" not in name}
        return renamed | {"norm.weight": (8 * renamed["norm.weight"]).to(torch.int8)}

    base = changed(whole, tmp_path / "base", without_prefix, architectures=["LlamaModel"])
    with pytest.raises(UserError, match=r"model\.safetensors holds norm\.weight as I8"):
        LanguageModel.load(settings(base))
    sharded = changed(whole, tmp_path / "sharded", without())
    (sharded / "model.safetensors").unlink()
    hf.AutoModelForCausalLM.from_pretrained(whole).save_pretrained(sharded, max_shard_size="40KB")
    last = sorted(sharded.glob("*.safetensors"))[-1]
    codes = {name: value.to(torch.uint8) for name, value in load_file(last).items()}
    save_file(codes, last, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{last} holds {next(iter(codes))} as U8"):
        LanguageModel.load(settings(sharded))


def test_masks_and_positions_that_are_no_weights_may_be_whole_numbers(tmp_path: Path) -> None:
    old = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 128, 128, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
    }
    folder = changed(build_model_folder(tmp_path / "whole", "gpt_neox"), tmp_path / "old", lambda own: own | old)
    assert LanguageModel.load(settings(folder)).n_layers == 3
    positions = {"bert.embeddings.position_ids": torch.arange(128)[None]}
    folder = changed(build_model_folder(tmp_path / "bert", "bert"), tmp_path / "kept", lambda own: own | positions)
    assert LanguageModel.load(settings(folder)).n_layers == 3


def test_a_model_that_cannot_be_run_in_bfloat16_is_run_in_float32_and_that_is_said(whole: Path, tmp_path: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    model = hf.FNetForMaskedLM(hf.FNetConfig(vocab_size=400, **size))
    model.save_pretrained(tmp_path)
    build_tokenizer("bert").save_pretrained(tmp_path)
    model_settings = ModelSettings(name=str(tmp_path), layer=0, context=32)
    loaded = load_model(model_settings, device="cuda")  # where it is put later
    assert loaded.model.dtype == torch.float32
    reader = LanguageModel(loaded.model, loaded.tokenizer, model_settings, weights=loaded.weights)
    assert any("run in float32, as it cannot be run in bfloat16 (Unsupported dtype" in each for each in reader.remarks)
    assert not any("bfloat16" in remark for remark in LanguageModel.load(model_settings).remarks)
    assert load_model(settings(whole), device="cuda").model.dtype == torch.bfloat16


def protein_model(folder: Path) -> Path:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    special = {"pad_token_id": 1, "mask_token_id": 32, "position_embedding_type": "rotary"}
    torch.manual_seed(0)
    hf.EsmForMaskedLM(hf.EsmConfig(vocab_size=33, max_position_embeddings=66, **special, **size)).save_pretrained(
        folder
    )
    (folder / "vocab.txt").write_text("\n".join(LETTERS.split()))
    hf.EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_letters_of_a_protein_are_tokens_and_special_ones_that_it_names_are_not(tmp_path: Path) -> None:
    reader = LanguageModel.load(settings(protein_model(tmp_path), layer=0))
    protein, named = reader.token_ids(["MLAGVSERTIDPKQ", "ML<cls>AG"])
    assert protein.tolist() == [20, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert 0 not in named
    assert disarmed("a<cls>b", ["<cls>"]) == "a< cls>b"


def test_a_run_on_proteins_shows_letters_and_one_on_prose_is_refused(tmp_path: Path) -> None:
    folder, text, prose = protein_model(tmp_path / "model"), tmp_path / "text.jsonl", tmp_path / "prose.jsonl"
    generator = torch.Generator().manual_seed(0)
    lines = [[LETTERS.split()[n] for n in torch.randint(4, 24, (40,), generator=generator)] for _ in range(60)]
    text.write_text("".join(json.dumps({"text": "".join(line)}) + "\n" for line in lines))
    prose.write_text("".join(json.dumps({"text": line}) + "\n" for line in sample_texts(60, seed=2)))
    sizes = ["--set", "data.train_tokens=800", "--set", "data.index_tokens=400", "--set", "data.evaluation_tokens=100"]
    common = ["--model", folder, "--layer", "0", "--width", "32", "--k", "4", "--methods", "single", "--tokens", "800"]
    call("train", tmp_path / "run", "--text", text, *common, *sizes)
    run = Run.open(tmp_path / "run")
    corpus = Corpus.open(run)
    assert "".join(corpus.window_texts(range(int(corpus.offsets[1])))) in {"".join(line) for line in lines}
    assert (corpus.token_text(20), sorted(corpus.texts.special)[0]) == ("M", 0)
    assert run.facts("corpus")["unknown_share"] == 0
    refused(call("train", tmp_path / "no", "--text", prose, *common, *sizes), "does not know")


def test_tokens_of_tokenizers_in_python_read_as_their_text(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "index", "sort", "##s", "##ed", "."])
    )
    pieces = hf.BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    found = vocabulary_table(pieces, ["the index sorts the sorted index"], rows=None)["bytes"].tolist()
    assert found[5:10] == [b" the", b" index", b" sort", b"s", b"ed"]
    read = hf.ByT5Tokenizer()
    table = vocabulary_table(read, ["plain text"], rows=300)
    assert len(table) == 300
    ids = read("é 你", add_special_tokens=False)["input_ids"]
    assert b"".join(table["bytes"][token] for token in ids).decode() == "é 你"


def test_ids_beyond_the_embedding(tmp_path: Path) -> None:
    model, tokenizer = build_model("gpt2"), build_tokenizer("gpt2")
    tokenizer.add_special_tokens({"pad_token": "<|other|>"})
    tokenizer.add_tokens(["column"])
    assert tokenizer.pad_token_id == 400  # the embedding has 400 rows
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader = LanguageModel.load(settings(tmp_path))
    known = [text for text in sample_texts(20, seed=5) if "column" not in text.lower()][:6]
    (together,) = reader.activations(known)
    alone = torch.cat([batch.acts_TD for text in known for batch in reader.activations([text])])
    torch.testing.assert_close(together.acts_TD, alone, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"makes token 401 \('column'\), and the model's embedding has 400 rows"):
        list(reader.activations(["every column"]))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"max_position_embeddings": 0}, "takes texts of 0 tokens"),
        ({"quantization_config": {"quant_method": "nonsense"}}, "is quantized by 'nonsense'"),
    ],
)
def test_configurations_that_cannot_be_right_are_refused(
    whole: Path, tmp_path: Path, config: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        LanguageModel.load(settings(changed(whole, tmp_path / "model", without(), **config)))
