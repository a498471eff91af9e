"""A small, complete run folder for the tests of the dashboard, made in seconds without training anything.

Activations are sums of token vectors, and members' atoms are such vectors with noise, so that features respond to
words, members share some of them, and densities follow the words' frequencies.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import pandas as pd
import torch
from synthetic_evaluation import ToyModel, evaluate_synthetic
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from sae_core.activations.corpus import Corpus
from sae_core.analysis.atoms.feature_table import atom_table
from sae_core.analysis.atoms.stage_energy import measure_stage_energy
from sae_core.analysis.index.activation_index import ActivationIndex, build_index
from sae_core.analysis.similarity.family_table import relate_members
from sae_core.analysis.similarity.matching import match_members
from sae_core.analysis.similarity.nearest import write_nearest
from sae_core.analysis.suggestions.suggest import suggest_labels
from sae_core.ensembles.ensemble import Ensemble, save_ensemble
from sae_core.foundation.files.whole_files import read_json, write_json, write_table, write_tensors
from sae_core.foundation.methods import BY_DEFAULT
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.sae import TopKSAE
from sae_core.training.curves import COLUMNS
from sae_core.training.stage import Plan
from sae_core.training.training_facts import Cost, training_facts

Stop = Literal["train", "index", "evaluate"]
INJECTION = "<img src=x onerror=alert(1)>"
"""Stands in one document, and must never become an element of a page."""
_SUBJECTS = ("array", "tensor", "graph", "frame", "matrix", "solver", "kernel", "index", "sample", "token")
_VERBS = ("returns", "computes", "raises", "copies", "sorts", "fits", "plots", "loads", "splits", "joins")
_OBJECTS = ("shape", "axis", "dtype", "node", "column", "row", "error", "figure", "path", "batch")
_ENDS = (
    "if it is given.",
    "along the axis.",
    "when None.\n",
    "in place;",
    "(default: 0.5).\n\n\t>>> x = f(3)",
    "or fails!",
)


_FOLDER = TemporaryDirectory(prefix="synthetic")
_WRITTEN: dict[str, Path] = {}
"""The runs that this process has written, by their options."""


def default_texts(count: int, seed: int) -> list[str]:
    """Sentences from a small grammar; one document holds a piece of HTML that must stay text."""
    generator = np.random.default_rng(seed)
    ranks = 1.0 / np.arange(1, 11)

    def word(words: Sequence[str]) -> str:
        return str(
            generator.choice(words, p=(ranks / ranks.sum())[: len(words)] / (ranks / ranks.sum())[: len(words)].sum())
        )

    texts = [
        " ".join(
            f"The {word(_SUBJECTS)} {word(_VERBS)} the {word(_OBJECTS)} of a {word(_SUBJECTS)} {word(_ENDS)}"
            for _ in range(int(generator.integers(2, 6)))
        )
        for _ in range(count)
    ]
    texts[0] = f"The array {INJECTION} returns the shape. {texts[0]}"
    return texts


def write_synthetic_run(path: Path, **options: Any) -> Run:
    """Write a run folder. One with options that were given before is a copy under an identity of its own.

    Args:
        path: The folder.
        options: As of `_write_run`.
    """
    known = repr(sorted(options.items()))
    if "metadata" in options or len(known) > 200:
        return _write_run(path, **options)
    if known not in _WRITTEN:
        _WRITTEN[known] = _write_run(Path(_FOLDER.name) / str(len(_WRITTEN)), **options).path
    shutil.copytree(_WRITTEN[known], path)
    write_json(path / "run.json", {**read_json(path / "run.json"), "id": uuid4().hex})
    return Run.open(path)


def _write_run(
    path: Path,
    *,
    seed: int = 0,
    members: int = 3,
    width: int = 24,
    d_in: int = 32,
    texts: Sequence[str] | None = None,
    metadata: pd.DataFrame | None = None,
    vocabulary: int = 400,
    added_tokens: Sequence[str] = (),
    stop_before: Stop | None = None,
) -> Run:
    """Write a run folder.

    Args:
        path: The folder.
        seed: Decides everything.
        members: Members of the bagged and of the boosted ensemble.
        width: Features of a member.
        d_in: Dimension of the activations.
        texts: The documents; by default sentences from a small grammar.
        metadata: One row a document.
        vocabulary: Size of the tokenizer's vocabulary.
        added_tokens: Texts that are one token each, beyond the vocabulary.
        stop_before: Leave this stage and what follows unfinished.
    """
    settings = RunSettings.model_validate(
        {
            "sae": {"width": width, "k": 4},
            "training": {"members": members, "tokens": 20_000, "seed": seed},
            "data": {"index_tokens": 100_000},
        }
    )
    run = Run.create(path, settings)
    documents = list(texts) if texts is not None else default_texts(60, seed)
    tokens_T, tokenizer = _write_corpus(run, documents, metadata, vocabulary, added_tokens)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

    model = ToyModel(encode, vocabulary + len(added_tokens), d_in, seed)
    acts_TD = model.of_tokens(tokens_T)
    run.finish(
        "corpus",
        {
            "documents": len(documents),
            "index_tokens": len(tokens_T),
            "train_tokens": len(tokens_T),
            "d_in": d_in,
            "model": "synthetic",
        },
    )
    if stop_before == "train":
        return run
    ensembles = _ensembles(tokens_T, model.vectors_VD, members, width, seed)
    for name, ensemble in ensembles.items():
        save_ensemble(ensemble, run.ensemble(name))
        curves = _curves(len(ensemble))
        write_table(run.ensemble(name).curves, curves)
        plan = Plan(name, 40, 500, len(ensemble), seed, torch.device("cpu"))
        boosting = "recomputed" if ensemble.wiring == "residual" else None
        cost = Cost(1.5, boosting=boosting)
        run.finish(f"train/{name}", training_facts(ensemble, cost, plan, rows=len(acts_TD), peak=2**28))
    if stop_before == "index":
        return run
    for name, ensemble in ensembles.items():
        _browse(run, name, ensemble, acts_TD, seed)
    if stop_before == "evaluate":
        return run
    evaluate_synthetic(run, ensembles, acts_TD, model, documents, [*_SUBJECTS, *_OBJECTS])
    return run


def _write_corpus(
    run: Run, texts: Sequence[str], metadata: pd.DataFrame | None, vocabulary: int, added_tokens: Sequence[str]
) -> tuple[Tensor, Tokenizer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|bos|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(list(added_tokens))
    run.corpus.tokenizer.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(run.corpus.tokenizer / "tokenizer.json"))
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    offsets = torch.tensor([0, *np.cumsum([len(ids) for ids in encoded])], dtype=torch.int64)
    tokens_T = torch.tensor([token for ids in encoded for token in ids], dtype=torch.int32)
    write_tensors(run.corpus.tokens, {"tokens": tokens_T, "offsets": offsets})
    if metadata is None:
        metadata = pd.DataFrame(
            {
                "package": [("numpy", "pandas")[number % 2] for number in range(len(texts))],
                "module": [("numpy.linalg", "pandas.core")[number % 2] for number in range(len(texts))],
                "name": [f"function_{number}" for number in range(len(texts))],
                "kind": "prose",
            }
        )
    write_table(run.corpus.documents, metadata)
    return tokens_T, tokenizer


def _ensembles(tokens_T: Tensor, vectors_VD: Tensor, members: int, width: int, seed: int) -> dict[str, Ensemble]:
    frequent = torch.bincount(tokens_T.long(), minlength=len(vectors_VD)).argsort(descending=True, stable=True)
    parts = [_member(vectors_VD, frequent, width, seed=100 * seed + number) for number in range(members)]
    staged = [_member(vectors_VD, frequent.roll(-4 * number), width, seed=50 + number) for number in range(members)]
    wide = _member(vectors_VD, frequent, members * width, seed=seed + 7)
    ensembles = {
        "single": Ensemble([parts[0]], wiring="parallel", method="single"),
        "bagged": Ensemble(parts, wiring="parallel", method="bagged"),
        "boosted": Ensemble(staged, wiring="residual", method="boosted"),
        "expanded": Ensemble([wide], wiring="parallel", method="expanded"),
    }
    return {name: ensembles[name].eval() for name in BY_DEFAULT}


def _member(vectors_VD: Tensor, frequent_V: Tensor, width: int, *, seed: int) -> TopKSAE:
    """Two thirds of the atoms stand for frequent words, which all members share; the rest for words of its own."""
    generator = torch.Generator().manual_seed(seed)
    shared = (2 * width) // 3
    own = torch.randperm(len(frequent_V), generator=generator)[: width - shared]
    words = torch.cat([frequent_V[:shared], frequent_V[own]]) if shared <= len(frequent_V) else own
    words = words.repeat(-(-width // len(words)))[:width]
    member = TopKSAE(vectors_VD.shape[1], width, k=4, seed=seed)
    noise = 0.35 + 0.8 * torch.rand(width, 1, generator=generator)
    d_in = vectors_VD.shape[1]
    atoms_ND = vectors_VD[words] + noise * torch.randn(width, d_in, generator=generator) / d_in**0.5
    with torch.no_grad():
        member.W_dec.copy_(torch.nn.functional.normalize(atoms_ND, dim=1))
        member.W_enc.copy_(member.W_dec.T)
        member.b_enc.fill_(-1.6)
        member.b_enc[-1] = -1e3  # a dead feature
    return member


def _curves(members: int) -> pd.DataFrame:
    """As training writes them, with figures that fall and rise as they do there."""
    steps = np.arange(1, 41)
    figures: list[dict[str, Any]] = [
        {
            "member": member,
            "step": steps,
            "tokens": 500 * steps,
            "seconds": 0.01 * steps,
            "loss": 30 / steps**0.5 + member,
            "explained_variance": 0.9 - 0.7 / steps**0.6 - 0.02 * member,
            "explained_variance_total": 0.9 - 0.7 / steps**0.6 + 0.02 * member,
            "l0": 4.0,
            "dead": 0.04,
            "learning_rate": 1e-3,
        }
        for member in range(members)
    ]
    curves = pd.concat(map(pd.DataFrame, figures), ignore_index=True)
    assert tuple(curves) == COLUMNS
    return curves


def _browse(run: Run, name: str, ensemble: Ensemble, acts_TD: Tensor, seed: int) -> None:
    folder = run.ensemble(name)
    build_index(ensemble, lambda start, stop: acts_TD[start:stop], len(acts_TD), folder.index)
    run.finish(f"index/{name}", {"tokens": len(acts_TD)})
    matches, summary = match_members(ensemble)
    write_table(folder.matches, matches)
    write_json(folder.match_summary, summary)
    write_nearest(ensemble, folder.nearest)
    firing, families, relations = relate_members(
        ActivationIndex.open(folder.index), [member.W_dec for member in ensemble], matches
    )
    write_table(folder.firing_matches, firing)
    write_table(folder.families, families)
    write_json(folder.family_summary, relations)
    if name == "boosted":
        energy, stages = measure_stage_energy(ensemble, lambda start, stop: acts_TD[start:stop], len(acts_TD))
        write_table(folder.stage_energy, energy)
        write_json(folder.stage_energy_summary, stages)
    x, y = _plane(ensemble.dictionary.detach())
    places = pd.DataFrame({"x": x, "y": y, "cluster": np.arange(len(x)) % 7 - 1})
    index, corpus = ActivationIndex.open(folder.index), Corpus.open(run)
    atoms = atom_table(index, corpus, matches=matches, places=places, offsets=ensemble.offsets)
    write_table(folder.atoms, atoms)
    write_table(folder.promoted, _promoted(len(atoms), seed))
    write_table(folder.suggestions, suggest_labels(index, corpus, seed=seed))
    run.finish(f"atoms/{name}", {"features": len(atoms)})


def _plane(atoms_MD: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The two main directions; the real map takes seconds that a test has not."""
    _, _, directions = torch.linalg.svd(atoms_MD - atoms_MD.mean(dim=0), full_matrices=False)
    plane = (atoms_MD @ directions[:2].T).numpy()
    return plane[:, 0], plane[:, 1]


def _promoted(features: int, seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    words = [f" {word}" for word in (*_SUBJECTS, *_OBJECTS, "\n", INJECTION)]
    drawn = [generator.permutation(len(words)) for _ in range(features)]
    scores = [sorted((float(s) for s in generator.uniform(0.5, 4, 8)), reverse=True) for _ in range(features)]
    return pd.DataFrame(
        {
            "feature": range(features),
            "promoted": [[words[i] for i in order[:8]] for order in drawn],
            "promoted_scores": scores,
            "suppressed": [[words[i] for i in order[8:16]] for order in drawn],
            "suppressed_scores": [[-0.8 * s for s in part] for part in scores],
        }
    )
