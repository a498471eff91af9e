"""GGUF files as models: found, refused in one sentence, and read as the weights that were written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import build_model, build_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sae_core.activations.origins.language_model.model.gguf_files import gguf_file
from sae_core.activations.origins.language_model.model.loading import load_config, load_model
from sae_core.foundation.errors import UserError
from sae_core.foundation.settings.run_settings import ModelSettings


def test_a_gguf_file_is_found_or_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("x")
    assert gguf_file(tmp_path) is None
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF....")
    assert gguf_file(tmp_path) == gguf_file(file) == file
    (tmp_path / "b.GGUF").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"holds 2 GGUF files; give the path of one, such as .*a\.gguf"):
        gguf_file(tmp_path)
    with pytest.raises(UserError, match=r"b\.GGUF is no GGUF file"):
        gguf_file(tmp_path / "b.GGUF")
    with pytest.raises(UserError, match=r"c\.gguf cannot be read \(No such file"):
        gguf_file(tmp_path / "c.gguf")
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file(tmp_path) is None  # a folder in transformers format stays one
    monkeypatch.setattr(
        "sae_core.activations.origins.language_model.model.spreading.find_spec",
        lambda name: None if name == "gguf" else object(),
    )
    with pytest.raises(UserError, match=r"is a GGUF file, and gguf is not installed; run pip install gguf"):
        load_config(ModelSettings(name=str(file)))


def test_its_weights_are_those_that_were_written(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    model, tokenizer = build_model(), build_tokenizer()
    assert isinstance(model, LlamaForCausalLM)
    path, config = tmp_path / "tiny.gguf", model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types([3 if number < 3 else 1 for number in range(len(vocabulary))])
    writer.add_token_merges([" ".join(pair) for pair in _merges(tokenizer)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        rows = tensor
        if "q_proj" in name or "k_proj" in name:  # llama.cpp pairs the halves of a head
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    loaded = load_model(ModelSettings(name=str(tmp_path), layer=1), device="cpu")
    assert not loaded.weights.missing
    assert not list(loaded.weights.remarks())
    ids_BL = torch.arange(3, 40)[None]
    assert torch.allclose(loaded.model(ids_BL).logits, model(ids_BL).logits, atol=1e-5)
    assert (
        loaded.tokenizer("The values of a copy")["input_ids"][-3:]
        == tokenizer("The values of a copy")["input_ids"][-3:]
    )


def _merges(tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    merges: list[list[str]] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return merges
