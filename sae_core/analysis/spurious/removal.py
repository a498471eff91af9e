"""Remove a spurious correlation by ablating features (SHIFT, SCR), for every ensemble and a random dictionary.

Sources: Marks et al. 2024, *Sparse Feature Circuits*; Karvonen et al. 2025, *SAEBench*. The SCR score alone can
mislead, so the figures include accuracies on both labels and in the worst group, the oracle and several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch import Tensor

from sae_core.analysis.concepts.detection import ActivationsOf
from sae_core.analysis.shared.names_in_tables import (
    BIASED,
    BY_ATTRIBUTE,
    BY_PROBE,
    BY_TRUTH,
    MAINLY,
    MEASURED,
    ORACLE,
    RANDOM,
)
from sae_core.analysis.shared.names_in_tables import SPURIOUS_KEYS as KEYS
from sae_core.analysis.shared.pooling import Batch, Pooled, pool, random_dictionary
from sae_core.analysis.shared.seeds import mean_interval
from sae_core.analysis.spurious.ablation import Outcome, Probe, Texts, Workbench, fit_probe
from sae_core.analysis.spurious.tasks import SpuriousTask, draw_split
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.methods import REFERENCE
from sae_core.foundation.progress import Progress, Tick, silent

ABLATED = (2, 5, 10, 20, 50, 100, 500)
"""Numbers n of features to ablate automatically."""
COLUMNS = (
    *("task", "seed", "method", "ranking", "n", "used", "retrained", "target", "spurious", "worst_group", "scr"),
    *("group_00", "group_01", "group_10", "group_11"),
)
Spans = Callable[[Sequence[str]], list[NDArray[np.int64]]]
"""Returns the characters of each token of texts, like `LanguageModel.char_spans`."""


@dataclass(frozen=True, slots=True)
class PooledTask:
    """A task's texts, pooled once for every ensemble, for any seed and any choice of features.

    Attributes:
        task: The task.
        acts_XD: Mean activations, float32.
        codes: The mean coefficients of each method, α folded in, sparse [texts, M].
        marked: For each method, the share of each feature's activation on marked tokens [M]; empty if no tokens are
            marked. A feature that never fires has 0.
        random_ND: The atoms of the random dictionary, which belongs to no ensemble.
    """

    task: SpuriousTask
    acts_XD: NDArray[np.float32]
    codes: dict[str, sparse.csr_array]
    marked: dict[str, NDArray[np.float32]]
    random_ND: NDArray[np.float32]

    def texts(self, count: int, *, seed: int) -> Texts:
        """The texts of one seed; ``count`` as in `draw_split`."""
        split = draw_split(self.task, count, seed=seed)
        acts_XD = self.acts_XD.astype(np.float64)
        return Texts(acts_XD, self.task.target_X, self.task.spurious_X, *split)


def pool_task(
    task: SpuriousTask,
    ensembles: Mapping[str, Ensemble],
    activations_of: ActivationsOf,
    spans_of: Spans,
    sample_BD: Tensor,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> PooledTask:
    """Read the texts once with the model and encode them once with every ensemble and a random dictionary.

    Args:
        task: The task.
        ensembles: Ensembles by name, on ``device``.
        activations_of: Gives the activations of texts.
        spans_of: Says where their tokens stand; asked only if the task has marked characters.
        sample_BD: Some activations, on which the random dictionary is set up; it imitates the single SAE.
        seed: Seed of the random dictionary.
        device: Where to encode.
        progress: Told about texts.
    """
    like = ensembles.get(REFERENCE) or next(iter(ensembles.values()))
    random = random_dictionary(next(like.saes()), sample_BD.to(device), seed=(seed + 2**31) % 2**32)
    methods = {**ensembles, RANDOM: Ensemble([random], wiring="parallel", method=RANDOM)}
    texts = len(task.texts)
    batches: Any = activations_of(task.texts)
    if task.marked is not None:
        batches = _split_marked(batches, task, spans_of)
    pooled = pool(methods, batches, 2 * texts if task.marked is not None else texts, device=device, progress=progress)
    marked: dict[str, NDArray[np.float32]] = {}
    if task.marked is not None:
        pooled, marked = _joined(pooled)
    return PooledTask(task, pooled.raw, pooled.codes, marked, random.W_dec.detach().cpu().numpy())


@dataclass(frozen=True, slots=True)
class _Marked:
    """A batch in which the marked and the other tokens of a text count as two texts: 2·number + 1 and 2·number."""

    acts_TD: Tensor
    document_T: Tensor


def _split_marked(batches: Iterator[Batch], task: SpuriousTask, spans_of: Spans) -> Iterator[Batch]:
    assert task.marked is not None
    spans = spans_of(task.texts)
    marked = [overlaps(places, wanted) for places, wanted in zip(spans, task.marked, strict=True)]
    marked_T = torch.from_numpy(np.concatenate(marked))
    done = 0
    for batch in batches:
        count = len(batch.document_T)
        # Batches hold the tokens of all texts in order.
        is_marked_T = marked_T[done : done + count]
        done += count
        order_T = torch.argsort(2 * batch.document_T + is_marked_T, stable=True)
        yield _Marked(batch.acts_TD[order_T], (2 * batch.document_T + is_marked_T)[order_T])


def overlaps(places_T2: NDArray[np.int64], wanted: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Whether each token [T] shares a character with one of the wanted stretches of the text."""
    firsts, lasts = places_T2[:, :1], places_T2[:, 1:]
    starts, stops = np.array(wanted, dtype=np.int64).reshape(-1, 2).T
    return np.asarray(((firsts < stops) & (lasts > starts)).any(axis=1))


def _joined(pooled: Pooled) -> tuple[Pooled, dict[str, NDArray[np.float32]]]:
    """Join the two parts of each text: means, and the share of each feature's activation on marked tokens."""
    tokens_P = pooled.tokens.astype(np.float64)
    total_X = np.maximum(tokens_P[0::2] + tokens_P[1::2], 1)
    others_X, marked_X = tokens_P[0::2] / total_X, tokens_P[1::2] / total_X
    raw = pooled.raw[0::2] * others_X[:, None] + pooled.raw[1::2] * marked_X[:, None]
    codes, shares = {}, {}
    for name, codes_PM in pooled.codes.items():
        sums_PM = sparse.diags_array(tokens_P) @ codes_PM
        whole_XM = sparse.csr_array(sums_PM[0::2] + sums_PM[1::2])
        on_marked_M = np.asarray(abs(sums_PM[1::2]).sum(axis=0)).ravel()
        total_M = np.asarray(abs(sums_PM).sum(axis=0)).ravel()
        shares[name] = (on_marked_M / np.where(total_M > 0, total_M, 1)).astype(np.float32)
        codes[name] = sparse.csr_array(sparse.diags_array(1 / total_X) @ whole_XM).astype(np.float32)
    return replace(
        pooled, codes=codes, raw=raw.astype(np.float32), tokens=pooled.tokens.reshape(-1, 2).sum(axis=1)
    ), shares


def measure_spurious(
    pooled: PooledTask,
    dictionaries: Mapping[str, NDArray[np.float32]],
    texts: int,
    seeds: Sequence[int],
    *,
    counts: Sequence[int] = ABLATED,
    retrain: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Ablate the top n features of every method for every seed.

    Args:
        pooled: The texts.
        dictionaries: The atoms [M, D] of each ensemble, float32.
        texts: Number of confounded texts of a seed, and also of balanced texts and of test texts.
        seeds: Number of seeds. Each has its own texts if there are enough; see `draw_split`.
        counts: The values of n.
        retrain: Also fit a new probe after each ablation.
        progress: Told about seeds.

    Returns:
        The table with `COLUMNS`. A method's rows give accuracies of its ablated probe; those of the methods `BIASED`
        and `ORACLE` those of the two probes, with S_SCR 0 and 1. ``used`` is smaller than n where a ranking has fewer
        features. ``group_TS`` is the accuracy where the target is T and the spurious attribute S.

    Raises:
        UserError: If a group has too few texts.
    """
    atoms = {**dictionaries, RANDOM: pooled.random_ND}
    rows: list[dict[str, Any]] = []
    for done, seed in enumerate(seeds):
        progress(Tick(f"ablate, {pooled.task.name}", done, len(seeds), "seeds"))
        # The fits are many and small, so several threads would only slow each other down.
        with threadpool_limits(limits=1):
            found = list(_rows_of_seed(pooled, atoms, pooled.texts(texts, seed=seed), counts, retrain))
        rows += [{"task": pooled.task.name, "seed": seed, **row} for row in found]
    progress(Tick(f"ablate, {pooled.task.name}", len(seeds), len(seeds), "seeds"))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _rows_of_seed(
    pooled: PooledTask, atoms: Mapping[str, NDArray[np.float32]], texts: Texts, counts: Sequence[int], retrain: bool
) -> Iterator[dict[str, Any]]:
    biased, oracle, attribute = (
        fit_probe(texts.acts_XD[rows], labels[rows])
        for rows, labels in (
            (texts.confounded, texts.target_X),
            (texts.balanced, texts.target_X),
            (texts.balanced, texts.spurious_X),
        )
    )
    for number, (name, atoms_MD) in enumerate(atoms.items()):
        bench = Workbench(texts, pooled.codes[name], atoms_MD, biased=biased, oracle=oracle)
        if number == 0:
            # 0 and 1 by definition, even if there is no gap between the two.
            yield _row(BIASED, "", 0, 0, False, bench.before(), 0.0)
            yield _row(ORACLE, "", 0, 0, False, bench.best(), 1.0)
        for ranking, order in _rankings(bench, attribute, pooled.marked.get(name)).items():
            for n in counts:
                for retrained in (False, True) if retrain else (False,):
                    found = (bench.retrain if retrained else bench.ablate)(order[:n])
                    yield _row(name, ranking, n, len(order[:n]), retrained, found, bench.scr(found))


def _rankings(bench: Workbench, attribute: Probe, marked_M: NDArray[np.float32] | None) -> dict[str, NDArray[np.int64]]:
    """Rank the features by each possible ranking."""
    rankings = {BY_PROBE: bench.rank(), BY_ATTRIBUTE: bench.rank(bench.scores_by(attribute))}
    if marked_M is not None:
        rankings[BY_TRUTH] = bench.rank(among_M=marked_M >= MAINLY)
    return rankings


def _row(method: str, ranking: str, n: int, used: int, retrained: bool, found: Outcome, score: float) -> dict[str, Any]:
    return {
        "method": method,
        "ranking": ranking,
        "n": n,
        "used": used,
        "retrained": retrained,
        "target": found.target,
        "spurious": found.spurious,
        "worst_group": found.worst_group,
        "scr": score,
        **{f"group_{int(t)}{int(s)}": accuracy for (t, s), accuracy in found.groups.items()},
    }


def over_seeds(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The mean over seeds of every `MEASURED` figure, with its interval, by method, ranking, n and retrained."""
    found = []
    for key, rows in table.groupby(list(KEYS), sort=False):
        figures = {name: mean_interval(rows.sort_values("seed")[name].tolist()) for name in MEASURED}
        values = zip(KEYS, key, strict=True)
        found.append({name: getattr(value, "item", lambda value=value: value)() for name, value in values} | figures)
    return found


SHOWN = (2, 10, 50)
"""Numbers of ablated features to show first."""


def as_text(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures of a task for people, one row per method, by the first ranking: means over seeds.

    ``T @ 10`` is the accuracy on the target when 10 features are ablated, and so on.
    """
    by_method: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in facts["figures"]:
        if row["ranking"] in ("", BY_PROBE) and not row["retrained"]:
            by_method.setdefault(row["method"], {})[row["n"]] = row
    rows = []
    for method, by_count in by_method.items():
        cells = {"probe": method}
        for title, name in (
            ("T", "target"),
            ("S", "spurious"),
            ("worst", "worst_group"),
            ("SCR", "scr"),
        ):
            for n in SHOWN:
                style = ".2f" if name == "scr" else ".1%"
                # The biased probe and the oracle have one row each, without ablated features.
                row = by_count[n] if n in by_count else by_count[0]
                cells[f"{title} @ {n}"] = format(row[name]["mean"], style)
        rows.append(cells)
    return rows
