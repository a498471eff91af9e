"""Remove a spurious correlation by ablating features (SHIFT, SCR), for every ensemble and beside untrained ones.

Sources: Marks et al. 2024, *Sparse Feature Circuits*; Karvonen et al. 2025, *SAEBench*. The SCR score alone can
mislead, so the figures include accuracies on both labels and in the worst group, the oracle and several seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    SPURIOUS_KEYS,
)
from sae_core.analysis.shared.pooling import Batch, Pooled, pool
from sae_core.analysis.shared.random_twin import beside_untrained
from sae_core.analysis.shared.seeds import mean_interval
from sae_core.analysis.spurious.ablation import Outcome, Probe, Texts, Workbench, fit_probe
from sae_core.analysis.spurious.tasks import SpuriousTask, draw_split
from sae_core.ensembles.ensemble import Ensemble
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
        untrained: The atoms of the methods that no folder holds: `RANDOM` and the controls of boosted ensembles.
    """

    task: SpuriousTask
    acts_XD: NDArray[np.float32]
    codes: dict[str, sparse.csr_array]
    marked: dict[str, NDArray[np.float32]]
    untrained: dict[str, NDArray[np.float32]]

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
    controls: Mapping[str, Ensemble] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = silent,
) -> PooledTask:
    """Read the texts once with the model and encode them once with every method of `beside_untrained`.

    Args:
        task: The task.
        ensembles: Ensembles by name, on ``device``.
        activations_of: Returns the activations of texts.
        spans_of: Returns the characters of their tokens; called only if the task has marked characters.
        sample_BD: Some activations, on which the random dictionary is set up.
        controls: The controls of boosted ensembles by the ensembles' names (see `random_stages`).
        seed: Seed of the random dictionary.
        device: The device to encode on.
        progress: Told about texts.
    """
    methods = beside_untrained(ensembles, controls or {}, sample_BD.to(device), seed=seed)
    untrained = {
        name: each.dictionary.detach().cpu().numpy() for name, each in methods.items() if name not in ensembles
    }
    batches, texts = activations_of(task.texts), len(task.texts)
    if task.marked is None:
        pooled = pool(methods, batches, texts, device=device, progress=progress)
        return PooledTask(task, pooled.raw, pooled.codes, {}, untrained)
    batches = _split_marked(batches, task.marked, spans_of(task.texts))
    parts = pool(methods, batches, 2 * texts, device=device, progress=progress)
    return PooledTask(task, *_joined(parts), untrained)


@dataclass(frozen=True, slots=True)
class _Marked:
    """A batch in which the marked and the other tokens of a text count as two texts: 2·number + 1 and 2·number."""

    acts_TD: Tensor
    document_T: Tensor


def _split_marked(
    batches: Iterable[Batch], stretches: Sequence[Sequence[tuple[int, int]]], spans: Sequence[NDArray[np.int64]]
) -> Iterator[Batch]:
    marked = [overlaps(places, wanted) for places, wanted in zip(spans, stretches, strict=True)]
    marked_T = torch.from_numpy(np.concatenate(marked))
    done = 0
    for batch in batches:
        kept_T = getattr(batch, "kept_T", None)
        count = len(batch.document_T) if kept_T is None else len(kept_T)
        # Batches hold the tokens of all texts in order, but for those that are left out.
        own_T = marked_T[done : done + count]
        part_T = 2 * batch.document_T + (own_T if kept_T is None else own_T[kept_T])
        done += count
        order_T = torch.argsort(part_T, stable=True)
        yield _Marked(batch.acts_TD[order_T], part_T[order_T])


def overlaps(places_T2: NDArray[np.int64], wanted: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Whether each token [T] shares a character with one of the wanted stretches of the text."""
    firsts, lasts = places_T2[:, :1], places_T2[:, 1:]
    starts, stops = np.array(wanted, dtype=np.int64).reshape(-1, 2).T
    return np.asarray(((firsts < stops) & (lasts > starts)).any(axis=1))


def _joined(
    pooled: Pooled,
) -> tuple[NDArray[np.float32], dict[str, sparse.csr_array], dict[str, NDArray[np.float32]]]:
    """Join the two parts of each text: (mean activations, mean codes, share of each feature on marked tokens)."""
    tokens_P = pooled.tokens.astype(np.float64)
    total_X = np.maximum(tokens_P[0::2] + tokens_P[1::2], 1)
    raw = pooled.raw * (tokens_P.reshape(-1, 2) / total_X[:, None]).reshape(-1, 1)
    codes, shares = {}, {}
    for name, codes_PM in pooled.codes.items():
        sums_PM = sparse.csr_array(sparse.diags_array(tokens_P) @ codes_PM)
        on_marked_M = np.asarray(abs(sums_PM[1::2]).sum(axis=0)).ravel()
        total_M = np.asarray(abs(sums_PM).sum(axis=0)).ravel()
        shares[name] = (on_marked_M / np.where(total_M > 0, total_M, 1)).astype(np.float32)
        whole_XM = sparse.diags_array(1 / total_X) @ (sums_PM[0::2] + sums_PM[1::2])
        codes[name] = sparse.csr_array(whole_XM).astype(np.float32)
    return (raw[0::2] + raw[1::2]).astype(np.float32), codes, shares


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
        dictionaries: The atoms [M, D] of each ensemble, float32; untrained methods have theirs in ``pooled``.
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
    atoms = {**dictionaries, **pooled.untrained}
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
    for number, (name, codes_XM) in enumerate(pooled.codes.items()):
        bench = Workbench(texts, codes_XM, atoms[name], biased=biased, oracle=oracle)
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
    for key, rows in table.groupby(list(SPURIOUS_KEYS), sort=False):
        figures = {name: mean_interval(rows.sort_values("seed")[name].tolist()) for name in MEASURED}
        # NumPy's numbers and truth values are nothing that JSON knows.
        plain = [value.item() if isinstance(value, np.generic) else value for value in key]
        found.append(dict(zip(SPURIOUS_KEYS, plain, strict=True)) | figures)
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
        for title, name in zip(("T", "S", "worst", "SCR"), MEASURED, strict=True):
            for n in SHOWN:
                style = ".2f" if name == "scr" else ".1%"
                # The biased probe and the oracle have one row each, without ablated features.
                row = by_count.get(n) or by_count[0]
                cells[f"{title} @ {n}"] = format(row[name]["mean"], style)
        rows.append(cells)
    return rows
