"""Gather a corpus of text, and the activations that a language model has while it reads it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.massive import measure_massive
from sae_core.activations.origins.language_model.choosing import choose_passages
from sae_core.activations.origins.language_model.kept_passages import passages_table
from sae_core.activations.origins.language_model.left_out import LeftOut, chosen_ids, mark_left_out
from sae_core.activations.origins.language_model.reading import LanguageModel, Place
from sae_core.activations.origins.language_model.streaming import StreamedActivations
from sae_core.activations.origins.text.asked import what_is_short
from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.activations.store.cache import SHARD_BYTES, ActivationCache, CacheWriter
from sae_core.activations.store.left_out import without_left_out
from sae_core.activations.store.piles import choose_shuffle
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.whole_files import parse_json, replacing, write_table, write_tensors
from sae_core.foundation.machine.device import naming_full_memory, resolve_device
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run

_SAMPLE = 8
"""Texts from which it is seen how the tokens of a tokenizer read."""
_SHARDS = 8
"""A small cache is written in about this many shards, so that little is lost when it is interrupted."""


def gather(runs: Sequence[Run], progress: Progress) -> None:
    """Write corpus and caches of runs that differ in layer and site alone; see `Origin.gather`."""
    pending = [run for run in runs if not (CORPUS.is_finished(run) and ACTIVATIONS.is_finished(run))]
    settings = pending[0].settings
    places = [Place(run.settings.model.layer, run.settings.model.site) for run in pending]
    device = resolve_device(settings.training.device)
    with naming_full_memory(device, "lower model.batch_size or model.context, or take a smaller model"):
        model = LanguageModel.load(settings.model, device=device, places=places)
        ids = chosen_ids(model.tokenizer, settings.data.leave_out)
        for run in pending:
            if not CORPUS.is_finished(run):
                finished = next((other for other in runs if CORPUS.is_finished(other)), None)
                if finished is None:
                    _write_corpus(run, model, progress)
                else:
                    _copy_corpus(finished, run, model)
        _write_activations(pending, model, ids, progress)


def streamed(run: Run, cache: ActivationCache, device: str) -> StreamedActivations:
    """The activations of all training passages, read anew in every pass.

    Args:
        run: The run.
        cache: The training rows on disk that SAEs learn from, from which mean and scale come.
        device: Where the model runs.
    """
    table = passages_table(run, held_out=False)
    tokens = table["tokens"].to_numpy()
    return StreamedActivations(
        table["text"].tolist(),
        tokens,
        lambda: LanguageModel.load(run.settings.model, device=device),
        mean_D=cache.mean_D,
        scale=cache.scale,
        left_out=LeftOut.of(run),
    )


def _write_corpus(run: Run, model: LanguageModel, progress: Progress) -> None:
    started = time.perf_counter()
    data = run.settings.data
    chosen = choose_passages(run.settings, model, progress)
    table, unknown = chosen.table, model.check_known(chosen.table["text"].tolist())
    train, held_out = table[~table["held_out"]], table[table["held_out"]]
    ends = train["tokens"].to_numpy().cumsum()
    if run.settings.text.cut == "first":
        indexed = max(1, int(np.searchsorted(ends, data.index_tokens, side="right")))
    else:  # the last passage may be indexed in part
        indexed = min(len(train), int(np.searchsorted(ends, data.index_tokens, side="left")) + 1)
    offsets = np.concatenate([[0], ends[:indexed]])
    if run.settings.text.cut != "first":
        offsets = np.minimum(offsets, data.index_tokens)
    tokens = np.concatenate(chosen.ids[:indexed])[: offsets[-1]]
    corpus = run.corpus
    write_tensors(corpus.tokens, {"tokens": torch.from_numpy(tokens), "offsets": torch.from_numpy(offsets)})
    metadata = pd.DataFrame([parse_json(text) for text in train["metadata"][:indexed]]).fillna("")
    for name in ("document", "passage"):
        metadata[name] = train[name].to_numpy()[:indexed]
    write_table(corpus.documents, metadata)
    write_table(corpus.texts, table)
    model.save_tokenizer(corpus.tokenizer)
    vocabulary = model.vocabulary(train["text"][:_SAMPLE].tolist())
    if vocabulary is not None:
        write_table(corpus.vocabulary, vocabulary)
    lens = model.lens()
    if lens is not None:
        write_tensors(corpus.lens, lens)
    settings = run.settings.model
    facts = {
        "seconds": time.perf_counter() - started,
        "documents": int(train["document"][:indexed].nunique()),
        "passages": indexed,
        "tokens": len(tokens),
        "index_tokens": len(tokens),
        "train_documents": int(train["document"].nunique()),
        "train_passages": len(train),
        "train_tokens": int(train["tokens"].sum()),
        "evaluation_documents": int(held_out["document"].nunique()),
        "evaluation_passages": len(held_out),
        "evaluation_tokens": int(held_out["tokens"].sum()),
        **chosen.facts,
        "model": model.name,
        "layer": settings.layer,
        "site": settings.site,
        "d_in": model.d_model,
        "n_layers": model.n_layers,
        "context": model.context,
        "causal": model.causal,
        "unknown_share": unknown,
        "remarks": model.remarks,
        "reads": model.describe(settings.layer, settings.site),
        "fingerprint": _fingerprint(chosen.ids),
    }
    run.finish(CORPUS.key, facts, files=(file for file in corpus.path.rglob("*") if file.is_file()))
    if short := what_is_short(run.settings, facts):
        progress(Tick("gather text", len(table), len(table), "passages", note=short))


def _copy_corpus(finished: Run, run: Run, model: LanguageModel) -> None:
    """Give a run the corpus of another one, in which everything but layer and site is the same."""
    files = []
    for file in sorted(path for path in finished.corpus.path.rglob("*") if path.is_file()):
        files.append(run.corpus.path / file.relative_to(finished.corpus.path))
        with replacing(files[-1]) as partial:
            shutil.copyfile(file, partial)
    settings = run.settings.model
    own = {
        "seconds": 0.0,
        "layer": settings.layer,
        "site": settings.site,
        "reads": model.describe(settings.layer, settings.site),
    }
    run.finish(CORPUS.key, CORPUS.facts(finished) | own, files=files)


def _write_activations(runs: Sequence[Run], model: LanguageModel, ids: tuple[int, ...], progress: Progress) -> None:
    """Write the caches of runs of which each has its place in the model."""
    started = time.perf_counter()
    total = sum(int(_cached_passages(runs[0], name)["tokens"].sum()) for name in ("train", "evaluation"))
    trains = _write_caches(runs, model, "train", lambda rows: progress(_tick(rows, total)))
    rows = trains[0].rows
    evaluations = _write_caches(runs, model, "evaluation", lambda more: progress(_tick(rows + more, total)))
    seconds = time.perf_counter() - started
    tables = [_cached_passages(runs[0], name) for name in ("train", "evaluation")]
    for run, train, evaluation in zip(runs, trains, evaluations, strict=True):
        before = ACTIVATIONS.facts(run)
        left_out = mark_left_out(run, model, ids, [(train, tables[0]), (evaluation, tables[1])])
        train, evaluation = (without_left_out(ActivationCache.open(each.folder)) for each in (train, evaluation))
        activations_facts = {
            "seconds": seconds,
            "runs_together": len(runs),
            "tokens": rows + int(tables[1]["tokens"].sum()),
            "train_rows": rows,
            **left_out,
            "massive": measure_massive(train),
            "fingerprint": f"{train.fingerprint} {evaluation.fingerprint}",
            "mean_square_norm": train.d_in / train.scale**2,
            "shuffle": before.get("shuffle", "memory") if before else choose_shuffle(run, train),
        }
        run.finish(ACTIVATIONS.key, activations_facts, files=[*train.files, *evaluation.files])


def _tick(rows: int, total: int) -> Tick:
    return Tick("read activations", rows, total)


def _write_caches(
    runs: Sequence[Run], model: LanguageModel, name: str, tell: Callable[[int], None]
) -> list[ActivationCache]:
    """The caches called ``name`` of all runs; those that others are behind of wait for them."""
    table = _cached_passages(runs[0], name)
    offsets = np.concatenate([[0], table["tokens"].to_numpy().cumsum()])
    texts = table["text"].tolist()
    writers = [_writer(run, model, name, rows=int(offsets[-1])) for run in runs]
    for place, writer in enumerate(writers):
        for start, stop in tuple(writer.gaps):
            if not writer.refill(_read_rows(model, texts[np.searchsorted(offsets, start) :], stop - start)[place]):
                break
    rows = min(writer.rows for writer in writers)
    # A shard ends where a batch of texts ends, so the rows that are there already belong to whole passages.
    first = int(np.searchsorted(offsets, rows))
    for batch in model.activations(texts[first:], progress=lambda tick: tell(int(offsets[first + int(tick.done)]))):
        for writer, acts_TD in zip(writers, batch.acts_PTD, strict=True):
            if writer.rows == rows:
                writer.append(acts_TD)
        rows += len(batch.tokens_T)
    if rows != offsets[-1]:
        raise UserError(f"The model's tokenizer has changed since {runs[0].corpus.path} was written; use a new folder.")
    return [writer.finish() for writer in writers]


def _writer(run: Run, model: LanguageModel, name: str, *, rows: int) -> CacheWriter:
    most = SHARD_BYTES // (model.d_model * torch.float32.itemsize)
    return CacheWriter(
        run.activations / name,
        d_in=model.d_model,
        dtype=run.settings.data.dtype,
        contents=f"{name} {CORPUS.facts(run)['fingerprint']}",
        shard_rows=max(1, min(most, rows // _SHARDS)),
        refill=True,
    )


def _read_rows(model: LanguageModel, texts: Sequence[str], rows: int) -> Tensor:
    """The first activations [places, rows, D] of texts, of which a batch ends after so many."""
    pieces: list[Tensor] = []
    for batch in model.activations(texts):
        pieces.append(batch.acts_PTD)
        if sum(piece.shape[1] for piece in pieces) >= rows:
            break
    return torch.cat(pieces, dim=1)


def _cached_passages(run: Run, name: str) -> pd.DataFrame:
    """The passages whose activations are kept in the cache called ``name``."""
    table = passages_table(run, held_out=name == "evaluation")
    if name == "train" and run.settings.data.storage == "stream":
        facts = CORPUS.facts(run)
        table = table[: facts.get("passages", facts["documents"])]  # older runs have one passage a document
    return table


def _fingerprint(ids: Sequence[NDArray[np.int32]]) -> str:
    digest = hashlib.sha256()
    for tokens in ids:
        digest.update(len(tokens).to_bytes(4, "little"))
        digest.update(tokens.astype("<i4").tobytes())
    return digest.hexdigest()[:16]
