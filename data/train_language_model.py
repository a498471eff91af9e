"""Train the embedded language model and its tokenizer from scratch on the docstrings of installed packages.

    python data/train_language_model.py --out data/docstring-lm

Writes a folder that transformers opens (`AutoModelForCausalLM`, `AutoTokenizer`) and the measured figures. Stop it with
Ctrl-C and call it again to go on. On 2 cores the default takes one to two hours, on a GPU some minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae_core.activations.origins.text.docstrings import (
    MORE_PACKAGES,
    PACKAGES,
    Passage,
    read_jsonl,
    read_passages,
    write_jsonl,
)

BOS, PAD = "<|bos|>", "<|pad|>"
HELD_OUT_PERCENT = 2
TEST_SEQUENCES = 512


def main() -> None:
    """Gather, tokenize, train, measure, save."""
    options = parse_arguments()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    passages = gather(work / "corpus.jsonl")
    train = [p.text for p in passages if not is_held_out(p)]
    held_out = [p.text for p in passages if is_held_out(p)]
    tokenizer = train_tokenizer(train, options.vocabulary, work / "tokenizer.json")
    train_tokens = token_stream(tokenizer, train, work / "train_tokens.npy")
    test_tokens = token_stream(tokenizer, held_out, work / "test_tokens.npy")
    print(f"{len(train)} passages, {len(train_tokens):,} tokens to train on, {len(test_tokens):,} held out", flush=True)
    model = train_model(tokenizer, train_tokens, test_tokens, options)
    losses = {
        "model": evaluate(model, rows(test_tokens, options.context)[:TEST_SEQUENCES], options.device),
        **baseline_losses(train_tokens, test_tokens, tokenizer.get_vocab_size()),
    }
    corpus_facts = {
        "passages": len(train),
        "characters": sum(map(len, train)),
        "tokens": len(train_tokens),
        "tokens_seen": options.tokens,
        "held_out_tokens": len(test_tokens),
    }
    save(model, tokenizer, corpus_facts, losses, options.out)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/docstring-lm"), help="folder for the finished model")
    parser.add_argument("--work", type=Path, default=Path("lm-work"), help="folder for corpus, tokens and checkpoint")
    parser.add_argument(
        "--tokens", type=int, default=15_000_000, help="training tokens, several passes over the corpus"
    )
    parser.add_argument("--vocabulary", type=int, default=10_240, help="entries of the byte-level BPE vocabulary")
    parser.add_argument("--width", type=int, default=192, help="width of the residual stream")
    parser.add_argument("--layers", type=int, default=6, help="transformer blocks")
    parser.add_argument("--context", type=int, default=256, help="tokens in a training sequence")
    parser.add_argument("--batch", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak learning rate of AdamW")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order")
    return parser.parse_args()


def gather(path: Path) -> list[Passage]:
    """The whole corpus, read once and kept."""
    if not path.exists():
        write_jsonl(read_passages(packages=(*PACKAGES, *MORE_PACKAGES)), path)
    return read_jsonl(path)


def is_held_out(passage: Passage) -> bool:
    """Split by a hash of the text, so that the split does not depend on the order of files."""
    return int.from_bytes(hashlib.sha1(passage.text.encode()).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def train_tokenizer(texts: list[str], vocabulary: int, path: Path) -> Tokenizer:
    """Byte-level BPE that prefers whole words: digits stand alone and take no merges."""
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    tokenizer.save(str(path))
    return tokenizer


def token_stream(tokenizer: Tokenizer, texts: list[str], path: Path) -> NDArray[np.uint16]:
    """All texts as one stream, a BOS before each."""
    if not path.exists():
        ids = [np.array(encoding.ids, np.uint16) for encoding in tokenizer.encode_batch_fast(texts)]
        np.save(path, np.concatenate(ids))
    stream: NDArray[np.uint16] = np.load(path)
    return stream


def rows(stream: NDArray[np.uint16], context: int, offset: int = 0) -> NDArray[np.int64]:
    """Cut the stream into [rows, context] sequences that each begin with BOS (id 0)."""
    body = stream[offset : offset + (len(stream) - offset) // (context - 1) * (context - 1)].reshape(-1, context - 1)
    return np.concatenate([np.zeros((len(body), 1), np.int64), body.astype(np.int64)], axis=1)


def learning_rate(progress: float, peak: float) -> float:
    """Linear warm-up (2 %), constant, linear decay over the last 30 % (a trapezoid needs no sweep over lengths)."""
    return peak * min(progress / 0.02, 1.0, (1.0 - progress) / 0.3)


def train_model(
    tokenizer: Tokenizer, train_tokens: NDArray[np.uint16], test_tokens: NDArray[np.uint16], options: argparse.Namespace
) -> LlamaForCausalLM:
    """Train to ``options.tokens`` tokens from the last checkpoint, if there is one."""
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=options.width,
            intermediate_size=options.width * 8 // 3 // 32 * 32,
            num_hidden_layers=options.layers,
            num_attention_heads=options.width // 64,
            num_key_value_heads=options.width // 64,
            max_position_embeddings=2 * options.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.token_to_id(BOS),
            eos_token_id=tokenizer.token_to_id(BOS),
            pad_token_id=tokenizer.token_to_id(PAD),
        )
    ).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    checkpoint = options.work / "checkpoint.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    steps = options.tokens // (options.batch * options.context)
    test_rows, started, first = rows(test_tokens, options.context)[:64], time.time(), step
    while step < steps:
        batch = batch_of_step(train_tokens, step, options)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate((step + 1) / (steps + 1), options.learning_rate)
        loss = train_step(model, optimizer, batch.to(options.device))
        step += 1
        if step % 50 == 0 or step == steps:
            rate = (step - first) * options.batch * options.context / (time.time() - started)
            left = (steps - step) * options.batch * options.context / rate / 60
            print(f"step {step}/{steps}  loss {loss.item():.3f}  {rate:,.0f} tokens/s  {left:.0f} min left", flush=True)
        if step % 200 == 0 or step == steps:
            print(f"  held out {evaluate(model, test_rows, options.device):.3f} nats", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, checkpoint.with_suffix(".partial"))
            checkpoint.with_suffix(".partial").replace(checkpoint)
    return model


def batch_of_step(stream: NDArray[np.uint16], step: int, options: argparse.Namespace) -> torch.Tensor:
    """The [batch, context] sequences of one step: each pass cuts the stream at other places and shuffles the rows."""
    per_pass = (len(stream) - options.context) // (options.context - 1) // options.batch
    number, index = divmod(step, per_pass)
    random = np.random.default_rng([options.seed, number])
    sequences = rows(stream, options.context, offset=int(random.integers(options.context)))
    order = random.permutation(len(sequences))[index * options.batch : (index + 1) * options.batch]
    return torch.from_numpy(sequences[order])


def train_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, tokens_BT: torch.Tensor) -> torch.Tensor:
    """One optimizer step in bfloat16 autocast; returns the mean cross-entropy in nats."""
    with torch.autocast(tokens_BT.device.type, torch.bfloat16):
        logits_BTV = model(input_ids=tokens_BT[:, :-1]).logits
    loss = cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, sequences: NDArray[np.int64], device: str) -> float:
    """Mean cross-entropy in nats a token, in float32; BOS is never a target."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(sequences), 16):
        tokens_BT = torch.from_numpy(sequences[start : start + 16]).to(device)
        logits_BTV = model(input_ids=tokens_BT[:, :-1]).logits.float()
        target_BT = tokens_BT[:, 1:]
        loss_BT = cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), reduction="none")
        counted = target_BT.flatten() != 0
        total += loss_BT[counted].double().sum().item()
        count += int(counted.sum())
    model.train()
    return total / count


def baseline_losses(train: NDArray[np.uint16], test: NDArray[np.uint16], vocabulary: int) -> dict[str, float]:
    """Held-out nats a token of a unigram and of an interpolated 3-gram with absolute discounting (0.75)."""
    a, v = train.astype(np.int64), vocabulary
    unigram = (np.bincount(a, minlength=v) + 1.0) / (len(a) + v)
    t = test.astype(np.int64)
    t0, t1, t2 = t[:-2], t[1:-1], t[2:]
    p1 = unigram[t2]
    p2 = _discounted(a[:-1], a[1:], t1, t2, p1, v)
    p3 = _discounted(a[:-2] * v + a[1:-1], a[2:], t0 * v + t1, t2, p2, v)
    counted = t2 != 0
    return {
        "unigram": float(-np.log(p1[counted]).mean()),
        "trigram": float(-np.log(p3[counted]).mean()),
        "context_mixing_discount": 0.75,
    }


def _discounted(
    context: NDArray[np.int64],
    word: NDArray[np.int64],
    test_context: NDArray[np.int64],
    test_word: NDArray[np.int64],
    lower: NDArray[np.float64],
    vocabulary: int,
) -> NDArray[np.float64]:
    """max(c(h,w) − D, 0)/c(h) + D·types(h)/c(h) · lower; the lower order alone where the context is new."""
    discount = 0.75
    pairs, pair_counts = np.unique(context * vocabulary + word, return_counts=True)
    contexts, context_counts = np.unique(context, return_counts=True)
    types = np.bincount(np.searchsorted(contexts, pairs // vocabulary), minlength=len(contexts))
    at = np.minimum(np.searchsorted(contexts, test_context), len(contexts) - 1)
    known = contexts[at] == test_context
    wanted = test_context * vocabulary + test_word
    pair_at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count = np.where(pairs[pair_at] == wanted, pair_counts[pair_at], 0)
    mixed = (np.maximum(count - discount, 0) + discount * types[at] * lower) / context_counts[at]
    return np.where(known, mixed, lower)


def save(
    model: LlamaForCausalLM, tokenizer: Tokenizer, corpus: dict[str, int], losses: dict[str, float], out: Path
) -> None:
    """Write weights (float16), the tokenizer and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    model.cpu().half().save_pretrained(out)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=PAD).save_pretrained(
        out
    )
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        **corpus,
        "held_out_nats_per_token": {name: round(losses[name], 4) for name in ("model", "trigram", "unigram")},
        "held_out_perplexity": {name: round(math.exp(losses[name]), 1) for name in ("model", "trigram", "unigram")},
    }
    (out / "training.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
