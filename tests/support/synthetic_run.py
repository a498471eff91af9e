"""A small, complete run folder for the tests of the dashboard, made in seconds without training anything.

Activations are sums of token vectors, and members' atoms are such vectors with noise, so that features respond to
words, members share some of them, and densities follow the words' frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from sae_core.browse.atoms import atom_table
from sae_core.browse.corpus import Corpus
from sae_core.browse.family_table import relate_members
from sae_core.browse.finding_nearest import write_nearest
from sae_core.browse.index import ActivationIndex
from sae_core.browse.indexing import build_index
from sae_core.browse.matching import match_members
from sae_core.browse.stage_energy import measure_stage_energy
from sae_core.browse.suggest import suggest_labels
from sae_core.config import RunSettings
from sae_core.ensemble import Ensemble, save_ensemble
from sae_core.files import write_json, write_table, write_tensors
from sae_core.methods import METHODS
from sae_core.run import EVALUATION_STAGES, Run
from sae_core.sae import TopKSAE

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


def write_synthetic_run(
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
    tokens_T = _write_corpus(run, documents, metadata, vocabulary, added_tokens)
    acts_TD, vectors_VD = _activations(tokens_T, d_in, vocabulary + len(added_tokens), seed)
    run.finish(
        "corpus", {"documents": len(documents), "index_tokens": len(tokens_T), "d_in": d_in, "model": "synthetic"}
    )
    if stop_before == "train":
        return run
    ensembles = _ensembles(tokens_T, vectors_VD, members, width, seed)
    for name, ensemble in ensembles.items():
        save_ensemble(ensemble, run.ensemble(name))
        write_table(run.ensemble(name).curves, _curves(len(ensemble)))
        run.finish(f"train/{name}", {"seconds": 1.5, "tokens": 20_000})
    if stop_before == "index":
        return run
    for name, ensemble in ensembles.items():
        _browse(run, name, ensemble, acts_TD, seed)
    if stop_before == "evaluate":
        return run
    _evaluate(run, ensembles, seed)
    return run


def _write_corpus(
    run: Run, texts: Sequence[str], metadata: pd.DataFrame | None, vocabulary: int, added_tokens: Sequence[str]
) -> Tensor:
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
    return tokens_T


def _activations(tokens_T: Tensor, d_in: int, vocabulary: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors_VD = torch.nn.functional.normalize(torch.randn(vocabulary, d_in, generator=generator), dim=1)
    before_T = torch.cat([tokens_T[:1], tokens_T[:-1]])
    noise_TD = torch.randn(len(tokens_T), d_in, generator=generator)
    acts_TD = 3 * vectors_VD[tokens_T.long()] + vectors_VD[before_T.long()] + 0.15 * noise_TD
    return acts_TD, vectors_VD


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
    return {name: ensembles[name].eval() for name in METHODS}


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
    steps = np.arange(1, 41)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "member": member,
                    "step": steps,
                    "tokens": 500 * steps,
                    "seconds": 0.01 * steps,
                    "loss": 30 / steps**0.5 + member,
                    "explained_variance": 0.9 - 0.7 / steps**0.6 - 0.02 * member,
                    "l0": 4.0,
                    "dead": 1,
                }
            )
            for member in range(members)
        ],
        ignore_index=True,
    )


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


def _evaluate(run: Run, ensembles: dict[str, Ensemble], seed: int) -> None:
    explained = {"single": 0.88, "bagged": 0.905, "boosted": 0.948, "expanded": 0.921}
    reconstruction: dict[str, Any] = {"tokens": 5000, "ensembles": {}}
    dictionary: dict[str, Any] = {"threshold": 0.7, "ensembles": {}}
    cost: dict[str, Any] = {}
    for name, ensemble in ensembles.items():
        members, features, ev = len(ensemble), ensemble.offsets[-1], explained[name]
        gains = [0.88 + (ev - 0.88) * j / max(members - 1, 1) if members > 1 else ev for j in range(members)]
        reconstruction["ensembles"][name] = {
            "members": members,
            "features": features,
            "mse": 40 * (1 - ev),
            "explained_variance": ev,
            "explained_variance_per_dimension": ev - 0.01,
            "explained_variance_interval": [ev - 0.004, ev + 0.004],
            "l0": 4.0 * members,
            "relative_sparsity": 4.0 * members / features,
            "dead": members,
            "dead_fraction": members / features,
            "by_members": [
                {
                    "members": j + 1,
                    "explained_variance": gain,
                    "explained_variance_per_dimension": gain - 0.01,
                    "mse": 40 * (1 - gain),
                    "l0": 4.0 * (j + 1),
                }
                for j, gain in enumerate(gains)
            ],
            "residual_energy": [0.12, *([0.7] * (members - 1))] if name == "boosted" else [],
            "identity_error": 3e-7,
        }
        several = members > 1
        dictionary["ensembles"][name] = {
            "features": features,
            "diversity": features // 2,
            "diversity_fraction": 0.5,
            "deduplicated": features // 2,
            "connectivity": 0.9,
            "connectivity_tokens": 5000,
            "member_stability": {
                "mmcs": 0.7,
                "pw_mcc": 0.62,
                "shared_fraction": 0.5,
                "null_best": 0.41,
                "null_matched": 0.3,
            }
            if several
            else None,
        }
        cost[name] = {
            "train_seconds": 12.0 * members,
            "tokens": 20_000,
            "parameters": 2 * features * ensemble.d_in,
            "bytes": 8 * features * ensemble.d_in,
            "train_flops": 1e9 * members,
            "inference_flops_per_token": 4 * features * ensemble.d_in,
            "members": members,
        }
    write_json(run.evaluation("reconstruction"), reconstruction)
    write_json(run.evaluation("control"), _control(reconstruction["ensembles"]))
    write_json(run.evaluation("loss"), _loss(reconstruction["ensembles"]))
    write_json(run.evaluation("dictionary"), dictionary)
    write_json(run.evaluation("cost"), {"ensembles": cost})
    _evaluate_concepts(run, ensembles, seed)
    for stage in EVALUATION_STAGES:
        run.finish(f"evaluate/{stage}", {"seconds": 1.0})


def _control(reconstruction: dict[str, Any]) -> dict[str, Any]:
    """Random stages explain nine tenths of what trained ones add."""
    found = {}
    for name, own in reconstruction.items():
        if name != "boosted" or own["members"] < 2:
            continue
        first = own["by_members"][0]["explained_variance"]
        gains = [first + 0.9 * (step["explained_variance"] - first) for step in own["by_members"]]
        keys = ("members", "l0", "relative_sparsity", "dead", "dead_fraction")
        found[name] = {
            **{key: own[key] for key in keys},
            "explained_variance": gains[-1],
            "explained_variance_interval": [gains[-1] - 0.004, gains[-1] + 0.004],
            "explained_variance_per_dimension": gains[-1] - 0.01,
            "mse": 40 * (1 - gains[-1]),
            "by_members": [{"members": j + 1, "explained_variance": gain} for j, gain in enumerate(gains)],
            "gains": [1.0] * (own["members"] - 1),
            "trained": own["explained_variance"],
            "trained_above": [0.001, 0.01],
            "untrained_share": 0.9,
            "loss_recovered": (1 + gains[-1]) / 2,
            "loss_recovered_interval": [gains[-1] / 2 + 0.49, gains[-1] / 2 + 0.51],
            "kl_recovered": (1 + gains[-1]) / 2 - 0.02,
        }
    return {"tokens": 2000, "fitted_on": 4096, "bootstrap": 200, "seed": 0, "ensembles": found}


def _loss(reconstruction: dict[str, Any]) -> dict[str, Any]:
    """What stays unexplained is lost to the model's predictions by half."""

    def recovered(figures: dict[str, Any]) -> dict[str, Any]:
        share = (1 + figures["explained_variance"]) / 2
        interval = [share - 0.01, share + 0.01]
        found = {"loss_recovered": share, "loss_recovered_interval": interval, "kl_recovered": share - 0.02}
        return {"members": figures["members"], "cross_entropy": 3.0, "kl": 0.1, **found}

    return {
        "defined": True,
        "tokens": 2000,
        "predictions": 1900,
        "cross_entropy": {"model": 2.5, "zero": 9.0, "mean": 6.0},
        "kl": {"model": 0.0, "zero": 6.0, "mean": 4.0},
        "ensembles": {
            name: {**recovered(figures), "by_members": [recovered(step) for step in figures["by_members"]]}
            for name, figures in reconstruction.items()
        },
    }


def _evaluate_concepts(run: Run, ensembles: dict[str, Ensemble], seed: int) -> None:
    generator = np.random.default_rng(seed)
    concepts = {"library": ["numpy", "pandas", "scipy", "torch"], "kind": ["example", "parameters", "prose"]}
    tasks = [
        {
            "task": task,
            "description": f"Tell the {task} of a passage from its text (not <b>markup</b>).",
            "classes": names,
            "train_texts": 1000,
            "test_texts": 400,
            "chance": 0.5,
        }
        for task, names in concepts.items()
    ]
    write_json(run.evaluation("concepts"), {"tasks": tasks, "settings": {}})
    rows = []
    sizes = {name: ensemble.offsets[-1] for name, ensemble in ensembles.items()}
    for task, names in concepts.items():
        for concept in names:
            for method in (*sizes, "raw activation", "random"):
                for m in (0,) if method == "raw activation" else (1, 2, 5, 10, 20):
                    for variant in ("plain", "standardised"):
                        accuracy = float(np.clip(generator.normal(0.72 + 0.04 * m**0.5, 0.06), 0.5, 0.99))
                        own = method in sizes
                        rows.append(
                            {
                                "task": task,
                                "concept": concept,
                                "method": method,
                                "m": m,
                                "variant": variant,
                                "accuracy": accuracy,
                                "accuracy_low": accuracy - 0.03,
                                "accuracy_high": min(1.0, accuracy + 0.03),
                                "auc": min(1.0, accuracy + 0.06),
                                "f1": accuracy - 0.01,
                                "detection_rate": accuracy - 0.02,
                                "false_positive_rate": 1 - accuracy,
                                "features": generator.choice(sizes[method], m, replace=False).tolist() if own else [],
                                "signs": generator.choice([-1, 1], m).tolist() if own else [],
                            }
                        )
    write_table(run.evaluation_table("concepts"), pd.DataFrame(rows))
