"""Builders of small language models with random weights and a trained tokenizer, in transformers format."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = ("gpt2", "gpt_neox", "gemma2", "llama", "qwen2", "qwen3", "bert")
BOS, PAD, END = "<|bos|>", "<|pad|>", "<|end|>"
VOCABULARY = 400
MAX_TOKENS = 128

_SUBJECTS = ("the gradient", "a matrix", "the index", "every column", "the parser", "a sparse array", "the callback")
_VERBS = ("returns", "sorts", "ignores", "converts", "computes", "raises", "copies", "reshapes")
_OBJECTS = ("the values", "an error", "a copy", "the axis", "its input", "the last rows", "two names", "nothing")
_ENDS = (" in place.", " when x < 0.", " (default: 10).", ", but not the mask.", " on the GPU.", "; see `fit`.", ".")

MARKUP = "<img/src=x/onerror=alert(1)>"
"""A token of the small model's vocabulary that stands in most texts and must never become an element of a page.

Slashes do between attributes what spaces do, and the dashboard shows spaces of a token as dots.
"""


def sample_texts(count: int, *, seed: int = 0, sentences: tuple[int, int] = (1, 6)) -> list[str]:
    """``count`` different texts of some English sentences; the same seed gives the same texts."""
    chance = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        parts = [
            f"{chance.choice(_SUBJECTS)} {chance.choice(_VERBS)} {chance.choice(_OBJECTS)}{chance.choice(_ENDS)}"
            for _ in range(chance.randint(*sentences))
        ]
        texts[" ".join(part[0].upper() + part[1:] for part in parts)] = None
    return list(texts)


def build_tokenizer(family: str = "llama") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; it adds BOS in front, for gpt2 nothing (as the real one), for bert BOS and END."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample_texts(300, seed=1), trainer)
    if family != "gpt2":
        single = f"{BOS} $A {END}" if family == "bert" else f"{BOS} $A"
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BOS, END)]
        )
    pad = {} if family == "gpt2" else {"pad_token": PAD}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=END, **pad)


def build_model(family: str = "llama", *, d: int = 32, layers: int = 3, seed: int = 0) -> PreTrainedModel:
    """A model of one of `FAMILIES` with random weights, norms included."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    size = common | {
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * d,
        "max_position_embeddings": MAX_TOKENS,
    }
    grouped = size | {"num_key_value_heads": 1, "head_dim": d // 2}
    model: PreTrainedModel
    if family == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=d, n_layer=layers, n_head=2, n_positions=MAX_TOKENS, **common))
    elif family == "gpt_neox":
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**size))
    elif family == "gemma2":
        model = Gemma2ForCausalLM(Gemma2Config(**grouped, sliding_window=16))
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**grouped))
    elif family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**(size | {"num_key_value_heads": 1})))
    elif family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**grouped))
    elif family == "bert":
        model = BertForMaskedLM(BertConfig(**size))
    else:
        raise ValueError(f"unknown family {family}; known: {', '.join(FAMILIES)}")
    with torch.no_grad():
        for parameter in model.parameters():
            # Scales of norms and biases start as ones and zeros, which would hide mistakes about them; and the usual
            # small initial weights would leave the blocks nearly without effect.
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else 0.1))
    model.eval()
    return model


def build_model_folder(path: Path, family: str = "llama", *, d: int = 32, layers: int = 3, seed: int = 0) -> Path:
    """Save a small model and its tokenizer to the folder ``path``, which is returned."""
    build_model(family, d=d, layers=layers, seed=seed).save_pretrained(path)
    build_tokenizer(family).save_pretrained(path)
    return path
