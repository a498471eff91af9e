"""One row of figures per ensemble, gathered from a run's evaluation files; what is not measured yet is None.

Nothing here needs torch or scikit-learn, since the dashboard's first page waits for whatever is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sae_core.analysis.concepts.detected import Mean, means_of, read_means
from sae_core.analysis.cost.effort import effort_of
from sae_core.analysis.shared.terms import PLAIN, STANDARDISED
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import control_name, title_of
from sae_core.foundation.numbers import compact
from sae_core.foundation.run import Run

CONCEPT_FEATURES = (1, 5)


def by_ensemble(costs: Mapping[str, Any]) -> dict[str, Any]:
    """Costs by ensemble from evaluation/cost.json, which in earlier runs held nothing else."""
    found: dict[str, Any] = costs.get("ensembles", costs)
    return found


def summarize(run: Run) -> list[dict[str, Any]]:
    """The figures by which ensembles are compared, one dict per ensemble.

    Keys: ensemble, members, features, explained_variance, explained_variance_low, explained_variance_high,
    explained_variance_per_dimension, stages (members that learn one after another, else 1), control_explained_variance
    (with _low and _high), control_untrained_share, control_loss_recovered (_mean), control_cross_entropy, control_mse,
    control_l0, control_dead_fraction and control_concept_accuracy_1 and _5 as below (of stage 1 and random stages,
    where there are several), evaluation_tokens, loss_recovered (cross-entropy, zero ablation), loss_recovered_low,
    loss_recovered_high, loss_recovered_mean (mean ablation), cross_entropy (with the reconstruction, nats a
    prediction), cross_entropies (of the model, with zero and with mean ablation, the same for all ensembles), mse, l0,
    dead_fraction, diversity_fraction, connectivity, member_stability (mean one-to-one cosine between members),
    member_stability_null (the same for random dictionaries), retrains (runs compared, the same for all ensembles),
    retrain_stability and retrain_stability_null (as of members, between independent trainings), stage_2_stability and
    stage_2_stability_noise (of the second boosted stage, and of SAEs on Gaussian noise like its residual),
    concept_accuracy_1 and _5 (mean over concepts, then over tasks but the confounded one, with m = 1 and 5 features,
    plain coefficients), the same with _standardised behind it, which methods are compared by, and of that also _low and
    _high, train_tokens (of each SAE), train_steps (of the optimiser, one after another), train_seconds, train_flops,
    parameters.
    """
    sources = ("reconstruction", "dictionary", "cost", "loss", "stability", "control")
    measured = {name: _read(run, name) for name in sources}
    concepts = means_of(read_means(run))
    rows = []
    for folder in run.ensembles():
        figures = measured["reconstruction"].get("ensembles", {}).get(folder.name, {})
        atoms = measured["dictionary"].get("ensembles", {}).get(folder.name, {})
        cost = by_ensemble(measured["cost"]).get(folder.name, {})
        low, high = figures.get("explained_variance_interval", (None, None))
        loss = measured["loss"].get("ensembles", {}).get(folder.name, {})
        loss_low, loss_high = loss.get("loss_recovered_interval", (None, None))
        stability = atoms.get("member_stability") or {}
        manifest = read_manifest(folder)
        effort = effort_of(run, folder.name)
        retrained = measured["stability"].get("ensembles", {}).get(folder.name, {})
        rows.append(
            {
                "ensemble": folder.name,
                "members": figures.get("members") or len(manifest.members),
                "features": figures.get("features") or sum(manifest.widths),
                "explained_variance": figures.get("explained_variance"),
                "explained_variance_low": low,
                "explained_variance_high": high,
                "explained_variance_per_dimension": figures.get("explained_variance_per_dimension"),
                "stages": manifest.stages,
                **_control_figures(measured["control"].get("ensembles", {}).get(folder.name, {})),
                **_detection(concepts, control_name(folder.name), prefix="control_"),
                "evaluation_tokens": measured["reconstruction"].get("tokens"),
                "loss_recovered": loss.get("loss_recovered"),
                "loss_recovered_low": loss_low,
                "loss_recovered_high": loss_high,
                "loss_recovered_mean": loss.get("loss_recovered_mean"),
                "cross_entropy": loss.get("cross_entropy"),
                "cross_entropies": measured["loss"].get("cross_entropy"),
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
                **_second_stage(retrained),
                **_detection(concepts, folder.name),
                "train_tokens": effort.tokens,
                "train_steps": effort.steps,
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
    return read_object(path)


def _detection(means: Mapping[tuple[str, str], Mean], name: str, prefix: str = "") -> dict[str, float | None]:
    """Mean accuracies of a method; intervals of those that methods are compared by."""
    found: dict[str, float | None] = {}
    for m in CONCEPT_FEATURES:
        plain, scaled = (means.get((name, f"{m}.{variant}")) for variant in (PLAIN, STANDARDISED))
        key = f"{prefix}concept_accuracy_{m}"
        found[key] = plain and plain.accuracy
        found[f"{key}_{STANDARDISED}"] = scaled and scaled.accuracy
        for ending, end in (("low", scaled and scaled.low), ("high", scaled and scaled.high)):
            found[f"{key}_{STANDARDISED}_{ending}"] = None if end is None or math.isnan(end) else end
    return found


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
        **_control(row),
        "loss recovered": _number(row["loss_recovered"], ".4f"),
        "  over mean ablation": _number(row["loss_recovered_mean"], ".4f"),
        _nats(row["cross_entropies"]): _number(row["cross_entropy"], ".3f"),
        "MSE": _number(row["mse"], ".4g"),
        "L0": _number(row["l0"], ".1f"),
        f"dead in {row['evaluation_tokens'] or 0:,} tokens": _number(row["dead_fraction"], ".1%"),
        "diverse": _number(row["diversity_fraction"], ".1%"),
        "member stability": _number(row["member_stability"], ".2f"),
        "  random dictionaries": _number(row["member_stability_null"], ".2f"),
        **_retrained(row),
        **{key: value for m in CONCEPT_FEATURES for key, value in _detected(row, m).items()},
        "tokens an SAE": compact(row["train_tokens"]),
        "steps": compact(row["train_steps"]),
        "training FLOPs": compact(row["train_flops"]),
        "training": "–" if row["train_seconds"] is None else f"{row['train_seconds']:.0f} s",
    }


def _nats(references: Mapping[str, float | None] | None) -> str:
    """The head of the cross-entropies, with that of the model itself."""
    own = (references or {}).get("model")
    return "  nats" if own is None else f"  nats (model {own:.3f})"


def _detected(row: Mapping[str, Any], m: int) -> dict[str, str]:
    """Accuracy with m standardised features, its interval, and what stage 1 and random stages reach."""
    key = f"concept_accuracy_{m}_{STANDARDISED}"
    low, high, control = row[f"{key}_low"], row[f"{key}_high"], row[f"control_{key}"]
    said = "–" if low is None or high is None else f"{100 * low:.1f}–{high:.1%}"
    unmeasured = row["stages"] > 1 and row[key] is not None and control is None
    return {
        f"detection, {m} feature{'s' * (m > 1)}": _number(row[key], ".1%"),
        f"  {m}: 95 %": said,
        f"  {m}: {RANDOM_STAGES}": "unmeasured" if unmeasured else _number(control, ".1%"),
    }


def _control(row: dict[str, Any]) -> dict[str, str]:
    """What stage 1 and random stages explain, and what share of the gain over stage 1 that is; of boosting alone."""
    if row["stages"] > 1 and row["control_explained_variance"] is None:
        return {f"  {RANDOM_STAGES}": "unmeasured", "  untrained share of gain": "unmeasured"}
    return {
        f"  {RANDOM_STAGES}": _number(row["control_explained_variance"], ".4f"),
        "  untrained share of gain": _number(row["control_untrained_share"], ".0%"),
    }


def _control_figures(control: Mapping[str, Any]) -> dict[str, Any]:
    """What stage 1 and random stages come to; all None where that is not measured."""
    low, high = control.get("explained_variance_interval", (None, None))
    plain = ("untrained_share", "loss_recovered", "loss_recovered_mean", "cross_entropy", "mse", "l0", "dead_fraction")
    return {
        "control_explained_variance": control.get("explained_variance"),
        "control_explained_variance_low": low,
        "control_explained_variance_high": high,
        **{f"control_{key}": control.get(key) for key in plain},
    }


def _second_stage(retrained: Mapping[str, Any]) -> dict[str, float | None]:
    """How stable the first stage that learns a residual is over trainings, and SAEs trained on noise like it."""
    stages = retrained.get("by_stage") or []
    second = stages[1] if len(stages) > 1 else {}
    return {"stage_2_stability": second.get("pw_mcc"), "stage_2_stability_noise": second.get("noise_matched")}


def _retrained(row: dict[str, Any]) -> dict[str, str]:
    """Nothing, as long as there are no retrains."""
    if row["retrains"] is None:
        return {}
    return {
        f"stability over {row['retrains']} runs": _number(row["retrain_stability"], ".2f"),
        "  random, of those sizes": _number(row["retrain_stability_null"], ".2f"),
        "  stage 2 by itself": _number(row["stage_2_stability"], ".3f"),
        "  trained on such noise": _number(row["stage_2_stability_noise"], ".3f"),
    }


def _number(value: float | None, style: str) -> str:
    return "–" if value is None else format(value, style)
