"""A large synthetic run for the dashboard's benchmarks: by default 8 × 16,384 features with 200 million activations.

    python benchmarks/dashboard_run.py /tmp/big               # some minutes, 2 GB of disk, 3 GB of memory
    python benchmarks/dashboard_run.py /tmp/small --width 512 --members 4 --entries 1000000

Nothing is trained: tokens, firing patterns, atoms, matches and places are drawn such that they fit each other, and the
product's own code writes them. Every feature stands for a concept; concepts are driven by tokens or fire at random, as
often as Zipf's law says, and three fifths of them have a feature in every member. The same options give the same run.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sae_core.activations.origins.language_model.reading import LanguageModel
from sae_core.analysis.index.activation_index import write_placed
from sae_core.analysis.index.kept_entries import KeptEntries
from sae_core.analysis.prepare import prepare_run
from sae_core.analysis.similarity import matching
from sae_core.analysis.similarity.cosines import Match, cosine_blocks, random_best
from sae_core.ensembles.ensemble import Ensemble, save_ensemble
from sae_core.foundation.files.whole_files import write_json, write_table, write_tensors
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings
from sae_core.labels import LabelStore, plan_import
from sae_core.sae import TopKSAE

BLOCK = 8192
"""Tokens whose activations are drawn at a time."""
ZIPF = 1.2
"""How steeply the frequencies of concepts fall with their rank."""
DRIVEN = 0.6
"""Share of the activations that the token decides; the others come at random."""
FOUND = 0.8
"""How likely a member fires on a concept that all members have, where one of them does."""
DEAD = 0.02
CLUSTERS = 60
PACKAGES = ("numpy", "pandas", "scipy", "torch", "sklearn", "requests", "django", "flask", "plotly", "networkx")
KINDS = ("prose", "parameters", "example", "returns")


@dataclass(frozen=True)
class World:
    """What the features of all members stand for. Of each token every member fires one feature of every stratum.

    A concept is a stratum and a rank, S × R of them for each member; a feature is one of them in the member's order.

    Attributes:
        shared_SR: Whether all members have the concept.
        driven_VS: The rank that a token drives in each stratum, where all members agree.
        own_JVS: The same for each member alone.
        order_JSR: Which feature of a member stands for a concept.
        zipf: Ranks as often as they are drawn, for drawing by one number of 16 bits.
        scale_JN: How strongly each feature fires.
    """

    shared_SR: NDArray[np.bool_]
    driven_VS: NDArray[np.uint16]
    own_JVS: NDArray[np.uint16]
    order_JSR: NDArray[np.int32]
    zipf: NDArray[np.uint16]
    scale_JN: NDArray[np.float32]

    @classmethod
    def draw(cls, *, members: int, width: int, k: int, vocabulary: int, seed: int) -> World:
        """Draw a world; ``k`` must divide ``width``."""
        chance = np.random.default_rng((seed, 1))
        ranks = width // k
        alive = max(1, round(ranks * (1 - DEAD)))
        share = np.arange(1, alive + 1) ** -ZIPF
        zipf = np.searchsorted(np.cumsum(share / share.sum()), (np.arange(2**16) + 0.5) / 2**16).astype(np.uint16)
        order_JSR = np.empty((members, k, ranks), np.int32)
        for member in range(members):
            for stratum in range(k):
                order_JSR[member, stratum] = chance.permutation(ranks) * k + stratum
        return cls(
            shared_SR=chance.random((k, ranks)) < 0.6,
            driven_VS=zipf[chance.integers(2**16, size=(vocabulary, k))],
            own_JVS=zipf[chance.integers(2**16, size=(members, vocabulary, k))],
            order_JSR=order_JSR,
            zipf=zipf,
            scale_JN=np.exp(chance.normal(0.5, 0.6, (members, width))).astype(np.float32),
        )

    @property
    def strata(self) -> int:
        """Strata, S: the activations of a token in each member."""
        return self.shared_SR.shape[0]

    def codes(self, tokens_B: NDArray[np.int32], members: int, seed: tuple[int, int]) -> Iterator[tuple[Any, Any]]:
        """(features [B, S] of the member, values [B, S]) of each member for consecutive tokens."""
        chance = np.random.default_rng(seed)
        shape = (len(tokens_B), self.strata)
        strata_S = np.arange(self.strata)
        common_BS, driven_BS = self._ranks(chance, self.driven_VS[tokens_B])
        everywhere_BS = self.shared_SR[strata_S, common_BS]
        for member in range(members):
            own_BS, own_driven_BS = self._ranks(chance, self.own_JVS[member][tokens_B])
            agrees_BS = everywhere_BS & (chance.random(shape, np.float32) < FOUND)
            features_BS = self.order_JSR[member][strata_S, np.where(agrees_BS, common_BS, own_BS)]
            strength_BS = 0.25 + chance.standard_exponential(shape, np.float32)
            strength_BS *= 1 + 1.5 * np.where(agrees_BS, driven_BS, own_driven_BS)
            yield features_BS, strength_BS * self.scale_JN[member][features_BS]

    def _ranks(self, chance: np.random.Generator, driven_BS: NDArray[np.uint16]) -> tuple[Any, Any]:
        """(ranks, whether the token decided)."""
        by_token_BS = chance.random(driven_BS.shape, np.float32) < DRIVEN
        random_BS = self.zipf[chance.integers(2**16, size=driven_BS.shape, dtype=np.uint16)]
        return np.where(by_token_BS, driven_BS, random_BS), by_token_BS


def draw_tokens(tokens: int, allowed: NDArray[np.int32], seed: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(tokens [T], offsets of documents): phrases that come again and again, in documents of 40 to 400 tokens."""
    chance = np.random.default_rng((seed, 2))
    rank = chance.permutation(allowed)
    weight = np.arange(1, len(allowed) + 1) ** -1.05
    lengths = chance.integers(2, 9, 20_000)
    phrases = rank[chance.choice(len(rank), int(lengths.sum()), p=weight / weight.sum())].astype(np.int32)
    ends = np.cumsum(lengths)
    often = np.arange(1, len(lengths) + 1) ** -0.7
    chosen = chance.choice(len(lengths), tokens // 2 + 1, p=often / often.sum())
    size = lengths[chosen]
    first = np.repeat(ends[chosen] - size - (np.cumsum(size) - size), size)
    places = (first + np.arange(len(first)))[:tokens]
    cuts = np.cumsum(chance.integers(40, 400, tokens // 40 + 2))
    offsets = np.concatenate([[0], cuts[cuts < tokens], [tokens]])
    return phrases[places], offsets.astype(np.int64)


def write_corpus(run: Run, tokens: int, seed: int) -> tuple[NDArray[np.int32], torch.Tensor]:
    """Write tokens, documents, tokenizer and lens; the tokens and the unembedding [V, D]."""
    model = LanguageModel.load(run.settings.model)
    model.save_tokenizer(run.corpus.tokenizer)
    lens = model.lens()
    assert lens is not None
    write_tensors(run.corpus.lens, lens)
    special = set(model.tokenizer.all_special_ids)
    allowed = [token for token in range(len(model.tokenizer)) if token not in special]
    tokens_T, offsets = draw_tokens(tokens, np.array(allowed, np.int32), seed)
    write_tensors(run.corpus.tokens, {"tokens": torch.from_numpy(tokens_T), "offsets": torch.from_numpy(offsets)})
    numbers = np.arange(len(offsets) - 1)
    package = [PACKAGES[number % len(PACKAGES)] for number in numbers]
    metadata = {
        "source": "synthetic",
        "package": package,
        "module": [f"{name}.part_{number % 37}" for name, number in zip(package, numbers, strict=True)],
        "name": [f"function_{number}" for number in numbers],
        "kind": [KINDS[number // 3 % len(KINDS)] for number in numbers],
    }
    write_table(run.corpus.documents, pd.DataFrame(metadata))
    facts = {"documents": len(numbers), "tokens": tokens, "index_tokens": tokens, "d_in": model.d_model}
    run.finish("corpus", {**facts, "model": model.name, "layer": run.settings.model.layer, "site": "residual"})
    return tokens_T, lens["unembed_VD"]


def draw_ensemble(world: World, unembed_VD: torch.Tensor, members: int, seed: int) -> Ensemble:
    """Members whose atoms point where the tokens that drive them do; what they share differs by noise of many sizes."""
    chance = torch.Generator().manual_seed(seed)
    strata, ranks = world.shared_SR.shape
    d_in = unembed_VD.shape[1]
    directions_VD = torch.nn.functional.normalize(unembed_VD - unembed_VD.mean(dim=0), dim=1)
    noise = 0.15 + 1.4 * torch.rand(strata * ranks, 1, generator=chance) ** 2
    parts = []
    for member in range(members):
        tables = (world.driven_VS, world.own_JVS[member])
        common, own = (_concept_atoms(table_VS, ranks, directions_VD) for table_VS in tables)
        shared = torch.from_numpy(world.shared_SR.reshape(-1, 1))
        atoms = torch.where(shared, common, own) + noise * torch.randn(len(common), d_in, generator=chance) / d_in**0.5
        sae = TopKSAE(d_in, strata * ranks, k=strata, seed=member)
        with torch.no_grad():
            sae.W_dec[torch.from_numpy(world.order_JSR[member].ravel()).long()] = atoms
            sae.normalize_atoms()
            sae.W_enc.copy_(sae.W_dec.T)
        parts.append(sae)
    return Ensemble(parts, wiring="parallel").eval()


def _concept_atoms(table_VS: NDArray[np.uint16], ranks: int, directions_VD: torch.Tensor) -> torch.Tensor:
    """The direction [S·R, D] of each concept: of one of the tokens that drive it, else one of its own."""
    vocabulary, strata = table_VS.shape
    token_SR = np.arange(strata * ranks).reshape(strata, ranks) * 7919 % vocabulary
    for stratum in range(strata):
        token_SR[stratum, table_VS[:, stratum]] = np.arange(vocabulary)
    return directions_VD[torch.from_numpy(token_SR.ravel())]


def write_index(run: Run, name: str, world: World, tokens_T: NDArray[np.int32], members: int, seed: int) -> int:
    """Draw every activation and place it by feature, in bounded memory; how many there are."""
    folder = run.ensemble(name)
    folder.index.parent.mkdir(parents=True, exist_ok=True)
    width = world.scale_JN.shape[1]
    with tempfile.TemporaryDirectory(prefix=".index-", dir=folder.index.parent) as scratch:
        entries = Path(scratch) / "entries"
        with KeptEntries(entries) as kept:
            for start in range(0, len(tokens_T), BLOCK):
                block_B = tokens_T[start : start + BLOCK]
                rows = np.repeat(np.arange(start, start + len(block_B)), world.strata)
                for member, (features_BS, values_BS) in enumerate(world.codes(block_B, members, (seed, 3 + start))):
                    kept.add(features_BS.ravel() + member * width, rows, values_BS.ravel() / members)
        write_placed(folder.index, [entries], features=members * width, tokens=len(tokens_T))
    count = len(tokens_T) * world.strata * members
    run.finish(f"index/{name}", {"entries": count, "processes": 1}, files=[folder.index])
    return count


def write_matches(run: Run, ensemble: Ensemble, world: World) -> None:
    """The table of `match_members`, with the matching one to one that was planted; finding it would take hours."""
    numbers = {part.W_dec.data_ptr(): number for number, part in enumerate(ensemble)}

    def planted(atoms: torch.Tensor, others: torch.Tensor) -> Match:
        a, b = numbers[atoms.data_ptr()], numbers[others.data_ptr()]
        columns = torch.empty(len(atoms), dtype=torch.int64)
        here, there = (torch.from_numpy(world.order_JSR[member].ravel()).long() for member in (a, b))
        columns[here] = there
        cosine = (atoms * others[columns]).sum(dim=1)
        return Match(*best_both_ways(atoms, others), torch.arange(len(atoms)), columns, cosine)

    def chance(n: int, m: int, d: int) -> dict[str, float]:
        best = random_best(n, m, d)
        return {"best": best, "matched": 0.95 * best}

    matching.match_atoms, matching.random_null = planted, chance
    table, summary = matching.match_members(ensemble)
    folder = run.ensemble(ensemble.method)
    write_table(folder.matches, table)
    write_json(folder.match_summary, summary)
    run.finish(f"match/{folder.name}", files=[folder.matches, folder.match_summary])


def best_both_ways(atoms: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(cosine, number) of the best other of each atom, and of the best atom of each other; each cosine once."""
    of_rows = []
    best_M, place_M = torch.full((len(others),), -torch.inf), torch.zeros(len(others), dtype=torch.int64)
    for start, block_bM in cosine_blocks(atoms, others):
        of_rows.append(block_bM.max(dim=1))
        values_M, places_M = block_bM.max(dim=0)
        better_M = values_M > best_M
        best_M[better_M], place_M[better_M] = values_M[better_M], places_M[better_M] + start
    best_N, place_N = (torch.cat(parts) for parts in zip(*of_rows, strict=True))
    return best_N, place_N, best_M, place_M


def write_map(run: Run, name: str, world: World, members: int, seed: int) -> None:
    """Places in clusters, the features of one concept close together; UMAP of so many atoms would take too long."""
    chance = np.random.default_rng((seed, 4))
    concepts = world.shared_SR.size
    cluster = np.minimum(chance.zipf(1.3, concepts) - 1, CLUSTERS - 1)
    centres = chance.uniform(-10, 10, (CLUSTERS, 2))
    lone = chance.random(concepts) < 0.15
    home = np.where(lone[:, None], chance.uniform(-12, 12, (concepts, 2)), centres[cluster])
    home += chance.normal(0, 0.5, (concepts, 2))
    cluster[lone] = -1
    parts = []
    for member in range(members):
        places = home + chance.normal(0, 0.05, home.shape)
        order = np.argsort(world.order_JSR[member].ravel())
        part = {"x": places[order, 0].astype(np.float32), "y": places[order, 1].astype(np.float32)}
        parts.append(pd.DataFrame({**part, "cluster": cluster[order].astype(np.int64)}))
    folder = run.ensemble(name)
    write_table(folder.map, pd.concat(parts, ignore_index=True))
    run.finish(f"map/{name}", {"clusters": int(cluster.max()) + 1}, files=[folder.map])


def write_labels(run: Run, name: str, members: int, width: int, count: int, seed: int) -> None:
    """Labels of some features, by four people."""
    chance = np.random.default_rng((seed, 5))
    numbers = np.sort(chance.choice(members * width, min(count, members * width), replace=False))
    lines = ["ensemble,member,feature,label,note,author,time"]
    for number in numbers.tolist():
        word, author = PACKAGES[number % len(PACKAGES)], ("Ada", "Grace", "Emmy", "Sofja")[number % 4]
        place = f"{name},{number // width},{number % width}"
        lines.append(f"{place},{word} {number % 97},seen in {word},{author},2026-01-01T12:00:00Z")
    store = LabelStore(run.labels, run.name)
    store.save(plan_import(store, "\n".join(lines), {name: [width] * members}).edits(), author="", kind="import")


@contextmanager
def said(step: str) -> Iterator[None]:
    """Say how long a step took."""
    began = time.perf_counter()
    yield
    print(f"{step}: {time.perf_counter() - began:.0f} s", flush=True)


def write_run(path: Path, *, members: int, width: int, k: int, entries: int, labels: int, seed: int) -> Run:
    """Write the whole run; a step that was finished before is done again unless `prepare_run` can skip it."""
    name, tokens = "bagged", max(1000, entries // (members * k))
    settings = {
        "sae": {"width": width, "k": k},
        "training": {"methods": [name], "members": members, "seed": seed, "device": "cpu"},
        "data": {"index_tokens": tokens, "train_tokens": tokens},
    }
    run = Run.create(path, RunSettings.model_validate(settings))
    with said("corpus"):
        tokens_T, unembed_VD = write_corpus(run, tokens, seed)
    with said("members"):
        world = World.draw(members=members, width=width, k=k, vocabulary=len(unembed_VD), seed=seed)
        ensemble = draw_ensemble(world, unembed_VD, members, seed)
        save_ensemble(ensemble, run.ensemble(name))
        run.finish(f"train/{name}", {"seconds": 0.0, "tokens": tokens})
    with said("index"):
        write_index(run, name, world, tokens_T, members, seed)
    with said("matches"):
        write_matches(run, ensemble, world)
    with said("map and labels"):
        write_map(run, name, world, members, seed)
        write_labels(run, name, members, width, labels, seed)
    with said("logit lens, atoms and whatever else index writes"):
        prepare_run(run, device="cpu")
    return run


def main() -> None:
    """Read the options and write the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="A new or an empty folder.")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--width", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=16, help="Activations of a token in each member; divides the width.")
    parser.add_argument("--entries", type=int, default=200_000_000, help="Activations in the index.")
    parser.add_argument("--labels", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    run = write_run(options.pop("run"), **options)
    size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{run.path}: {size / 1e9:.2f} GB, written with {memory:.2f} GB of memory")


if __name__ == "__main__":
    main()
