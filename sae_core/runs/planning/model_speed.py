"""How fast text comes and how fast the language model reads it; a model that is not here is measured by its shape."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_core.activations.origins.language_model.model.shapes import ModelShape
from sae_core.activations.origins.language_model.reading import CPU_TOKENS, LanguageModel
from sae_core.activations.origins.text.documents import TEXT_FORMATS, load_documents
from sae_core.foundation.files import row_files as tables
from sae_core.foundation.machine.host_memory import free_host_memory
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.runs.planning.machines import resident_memory
from sae_core.runs.planning.rates import CHARS_PER_TOKEN, TOKENS_PER_TEXT

SAMPLE_CHARS = 200_000
PARSE = 1e-6
"""Seconds that parsing a character of the embedded corpus takes once its processes have started."""
TOKENIZE = 2.5e-7
"""Seconds that tokenizing a character takes, where the tokenizer is not here."""
_BLOCKS, _VOCABULARY = 2, 1024


@dataclass(slots=True)
class TextSpeed:
    """What was measured of text and model.

    Attributes:
        forward: Seconds of a token through the model up to the layer, tokenizing included where its tokenizer is here.
        start: Seconds before the first text.
        per_char: Seconds of a character of text.
        chars_per_token: Characters a token.
        tokens_per_text: Tokens a text.
        acts_TD: Activations; None where the model is not here.
        libraries: Bytes of the process without the model; 0 where that was not measured.
        remarks: What could only be estimated.
    """

    forward: float = 0.0
    start: float = 0.0
    per_char: float = TOKENIZE
    chars_per_token: float = CHARS_PER_TOKEN
    tokens_per_text: float = TOKENS_PER_TEXT
    acts_TD: Tensor | None = None
    libraries: int = 0
    remarks: list[str] = field(default_factory=list)


def measure_text(settings: RunSettings, shape: ModelShape, *, device: str, seconds: float) -> TextSpeed:
    """Read a sample of the text and let the model read it.

    Args:
        settings: The settings.
        shape: The model's shape.
        device: Where the model runs.
        seconds: How long it may read, about.

    Raises:
        UserError: If the text or the local model cannot be read.
    """
    speed = TextSpeed()
    speed.libraries = resident_memory()
    texts = _sample(settings, speed)
    if not _is_local(settings):
        speed.tokens_per_text = min(TOKENS_PER_TEXT, settings.model.context)
        speed.forward = _stand_in(settings, shape, device, seconds, speed)
        return speed
    model = LanguageModel.load(settings.model, device=device)
    texts = texts or ["The quick brown fox jumps over the lazy dog. " * 16] * 256
    began = time.perf_counter()
    counts = [len(ids) for ids in model.token_ids(texts)]
    chars, tokens = sum(map(len, texts)), max(1, sum(counts))
    speed.per_char += (time.perf_counter() - began) / chars - TOKENIZE
    # Of texts that are cut, only a part becomes tokens.
    speed.chars_per_token, speed.tokens_per_text = chars / tokens, tokens / len(texts)
    padded, speed.acts_TD = _read(model, texts, seconds)
    speed.forward = padded * sum(cells for _, cells in model.batches(texts)) / tokens
    return speed


def _sample(settings: RunSettings, speed: TextSpeed) -> list[str]:
    """Some texts of the source, if they can be had without the hub, and how long they took."""
    source = settings.text.source
    path = Path(source).expanduser()
    embedded = settings.text.is_embedded
    if not embedded and not path.exists() and path.suffix.lower() not in (*tables.FORMATS, *TEXT_FORMATS):
        speed.remarks.append(f"Text of {source} was not read: its download is not in the time.")
        return []
    began = time.perf_counter()
    texts = [document.text for document in load_documents(settings.text, max_chars=SAMPLE_CHARS)]
    spent, chars = time.perf_counter() - began, sum(map(len, texts))
    if embedded:
        speed.start, speed.per_char = max(0.0, spent - PARSE * chars), PARSE + TOKENIZE
    else:
        speed.per_char = spent / chars + TOKENIZE
    return texts


def _is_local(settings: RunSettings) -> bool:
    return settings.model.is_embedded or Path(settings.model.name).expanduser().is_dir()


def _read(model: LanguageModel, texts: Sequence[str], seconds: float) -> tuple[float, Tensor]:
    """(seconds of a token, padding being tokens too; activations), of some of the batches in which texts are read.

    Few texts by themselves would be padded more than those that are sorted by their length among many.
    """
    batches = list(model.batches(texts))
    list(model.activations(batches[0][0]))  # not counted
    spent, cells, acts = 0.0, 0, []
    for number in _spread(len(batches)):
        batch, size = batches[number]
        began = time.perf_counter()
        acts += [read.acts_TD for read in model.activations(batch)]
        spent, cells = spent + time.perf_counter() - began, cells + size
        if spent > seconds:
            break
    return spent / cells, torch.cat(acts)


def _spread(count: int) -> list[int]:
    """The numbers below ``count``, in such an order that the first of them are spread over all, whichever many."""
    bits = max(1, (count - 1).bit_length())
    turned = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1, 2**bits))
    return [number for number in (*turned, 0) if number < count]


@torch.inference_mode()
def _stand_in(settings: RunSettings, shape: ModelShape, device: str, seconds: float, speed: TextSpeed) -> float:
    """Seconds of a token through a model of this shape with random weights: of its first blocks, scaled to all."""
    blocks = min(_BLOCKS, settings.model.layer + 1)
    length = min(settings.model.context, int(TOKENS_PER_TEXT))
    need, free = 4 * shape.block_weights * blocks, free_host_memory()
    speed.remarks.append(f"{settings.model.name} is not here; its speed is that of {blocks} blocks of its shape.")
    if free is not None and 2 * need > free:
        speed.remarks[-1] = f"{settings.model.name} is not here and too large to be tried; its speed is left out."
        return 0.0
    model = _random_model(shape, blocks).eval().to(device, torch.float32 if device == "cpu" else torch.bfloat16)
    rows = max(
        1, min(settings.model.batch_size, CPU_TOKENS // length if device == "cpu" else settings.model.batch_size)
    )
    ids_BL = torch.randint(_VOCABULARY, (rows, length), device=device)
    model(input_ids=ids_BL)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        model(input_ids=ids_BL).last_hidden_state[0, 0, 0].item()
        calls += 1
    per_token = (time.perf_counter() - began) / (calls * rows * length)
    wanted = shape.forward_flops(length, settings.model.layer + 1)
    return per_token * wanted / shape.forward_flops(length, blocks)


def _random_model(shape: ModelShape, blocks: int) -> Any:
    """Some blocks of the kind and size of a model, on a small vocabulary."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        shape.kind,
        hidden_size=shape.d_model,
        num_hidden_layers=blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.mlp,
        vocab_size=_VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        use_cache=False,
    )
    return AutoModel.from_config(config)
