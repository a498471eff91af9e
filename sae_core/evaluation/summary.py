"""One row of figures per ensemble, gathered from a run's evaluation files; what is not measured yet is None.

Nothing here needs torch or scikit-learn, since the dashboard's first page waits for whatever is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sae_core.config import title_of
from sae_core.files import read_json, read_table
from sae_core.run import Run

CONCEPT_FEATURES = (1, 5)
CONFOUNDED = "confounded"
"""Name of the task whose labels go together with something else in training, but not in testing."""


def by_ensemble(costs: Mapping[str, Any]) -> dict[str, Any]:
    """Costs by ensemble from evaluation/cost.json, which in earlier runs held nothing else."""
    found: dict[str, Any] = costs.get("ensembles", costs)
    return found


def summarize(run: Run) -> list[dict[str, Any]]:
    """The figures by which ensembles are compared, one dict per ensemble.

    Keys: ensemble, members, features, explained_variance, explained_variance_low, explained_variance_high,
    explained_variance_per_dimension, evaluation_tokens, loss_recovered (cross-entropy, zero ablation),
    loss_recovered_low, loss_recovered_high, mse, l0,
    dead_fraction, diversity_fraction, connectivity, member_stability (mean one-to-one cosine between members),
    member_stability_null (the same for random dictionaries), retrains (runs compared, the same for all ensembles),
    retrain_stability and retrain_stability_null (as of members, between independent trainings), concept_accuracy_1 and
    _5 (mean over concepts, then over tasks but the confounded one, with m = 1 and 5 features, plain coefficients), the
    same with _standardised behind it, train_seconds, train_flops, parameters.
    """
    measured = {name: _read(run, name) for name in ("reconstruction", "dictionary", "cost", "loss", "stability")}
    concepts = _concept_accuracy(run)
    rows = []
    for folder in run.ensembles():
        figures = measured["reconstruction"].get("ensembles", {}).get(folder.name, {})
        atoms = measured["dictionary"].get("ensembles", {}).get(folder.name, {})
        cost = by_ensemble(measured["cost"]).get(folder.name, {})
        low, high = figures.get("explained_variance_interval", (None, None))
        loss = measured["loss"].get("ensembles", {}).get(folder.name, {})
        loss_low, loss_high = loss.get("loss_recovered_interval", (None, None))
        stability = atoms.get("member_stability") or {}
        retrained = measured["stability"].get("ensembles", {}).get(folder.name, {})
        rows.append(
            {
                "ensemble": folder.name,
                "members": figures.get("members") or len(read_json(folder.manifest)["members"]),
                "features": figures.get("features") or sum(read_json(folder.manifest)["widths"]),
                "explained_variance": figures.get("explained_variance"),
                "explained_variance_low": low,
                "explained_variance_high": high,
                "explained_variance_per_dimension": figures.get("explained_variance_per_dimension"),
                "evaluation_tokens": measured["reconstruction"].get("tokens"),
                "loss_recovered": loss.get("loss_recovered"),
                "loss_recovered_low": loss_low,
                "loss_recovered_high": loss_high,
                "mse": figures.get("mse"),
                "l0": figures.get("l0"),
                "dead_fraction": figures.get("dead_fraction"),
                "diversity_fraction": atoms.get("diversity_fraction"),
                "connectivity": atoms.get("connectivity"),
                "member_stability": stability.get("pw_mcc"),
                "member_stability_null": stability.get("null_matched"),
                "retrains": len(measured["stability"].get("runs", ())) or None,
                "retrain_stability": retrained.get("pw_mcc"),
                "retrain_stability_null": retrained.get("null_matched"),
                **{
                    f"concept_accuracy_{m}{ending}": concepts.get((folder.name, m, variant))
                    for variant, ending in (("plain", ""), ("standardised", "_standardised"))
                    for m in CONCEPT_FEATURES
                },
                "train_seconds": cost.get("train_seconds"),
                "train_flops": cost.get("train_flops"),
                "parameters": cost.get("parameters"),
            }
        )
    return rows


def _read(run: Run, name: str) -> dict[str, Any]:
    path = run.evaluation(name)
    if not path.exists():
        return {}
    value: dict[str, Any] = read_json(path)
    return value


def _concept_accuracy(run: Run) -> dict[tuple[str, int, str], float]:
    """Mean accuracy by (method, m, variant)."""
    path = run.evaluation_table("concepts")
    if not path.exists():
        return {}
    table: pd.DataFrame = read_table(path)
    # What the confounded task measures is not whether a concept is found, but what a detector leans on.
    table = table[table["task"] != CONFOUNDED]
    # Mean over concepts, then over tasks, so that a task with many classes does not outweigh the others.
    by_task = table.groupby(["method", "m", "variant", "task"])["accuracy"].mean()
    means = by_task.groupby(["method", "m", "variant"]).mean().rename("accuracy").reset_index()
    return {
        (str(method), int(m), str(variant)): float(accuracy)
        for method, m, variant, accuracy in means[["method", "m", "variant", "accuracy"]].itertuples(index=False)
    }


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row of `summarize` for people: column heads with units, rounded figures, a dash for what is not measured."""
    ev, low, high = row["explained_variance"], row["explained_variance_low"], row["explained_variance_high"]
    return {
        "ensemble": title_of(row["ensemble"]),
        "SAEs × features": f"{row['members']} × {row['features'] // row['members']}",
        "explained variance": _number(ev, ".4f"),
        "  95 % from": _number(low, ".4f"),
        "  to": _number(high, ".4f"),
        "  per dimension": _number(row["explained_variance_per_dimension"], ".4f"),
        "loss recovered": _number(row["loss_recovered"], ".4f"),
        "MSE": _number(row["mse"], ".4g"),
        "L0": _number(row["l0"], ".1f"),
        f"dead in {row['evaluation_tokens'] or 0:,} tokens": _number(row["dead_fraction"], ".1%"),
        "diverse": _number(row["diversity_fraction"], ".1%"),
        "member stability": _number(row["member_stability"], ".2f"),
        "  random dictionaries": _number(row["member_stability_null"], ".2f"),
        **_retrained(row),
        "detection, 1 feature": _number(row["concept_accuracy_1"], ".1%"),
        "  1, standardised": _number(row["concept_accuracy_1_standardised"], ".1%"),
        "detection, 5 features": _number(row["concept_accuracy_5"], ".1%"),
        "  5, standardised": _number(row["concept_accuracy_5_standardised"], ".1%"),
        "training": "–" if row["train_seconds"] is None else f"{row['train_seconds']:.0f} s",
    }


def _retrained(row: dict[str, Any]) -> dict[str, str]:
    """Nothing, as long as there are no retrains."""
    if row["retrains"] is None:
        return {}
    return {
        f"stability over {row['retrains']} runs": _number(row["retrain_stability"], ".2f"),
        "  random, of those sizes": _number(row["retrain_stability_null"], ".2f"),
    }


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)
