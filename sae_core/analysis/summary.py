"""One row of figures per ensemble, gathered from a run's evaluation files; what is not measured yet is None.

Nothing here needs torch or scikit-learn, since the dashboard's first page waits for whatever is imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sae_core.analysis.atoms.figures import DICTIONARY
from sae_core.analysis.concepts.detected import Mean, means_of, read_means
from sae_core.analysis.concepts.figures import SHOWN, detection
from sae_core.analysis.cost.effort import effort_of
from sae_core.analysis.cost.figures import COST, TRAIN_FLOPS
from sae_core.analysis.reconstruction.figures import (
    CONTROL,
    CONTROL_EXPLAINED,
    ERRORS,
    EXPLAINED,
    EXPLAINED_VARIANCE,
    LOSS,
)
from sae_core.analysis.reconstruction.stage import LOSS as LOSSES
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.shared.jobs import measured
from sae_core.analysis.shared.names_in_tables import PLAIN, STANDARDISED
from sae_core.analysis.stability.figures import SECOND_STAGE, STABILITY
from sae_core.analysis.stability.stage import STABILITY as OVER_RUNS
from sae_core.analysis.truth.figures import RECALL
from sae_core.analysis.truth.figures import SUMMARY as FOUND
from sae_core.analysis.truth.files import read_truth
from sae_core.analysis.truth.stage import TRUTH as KNOWN
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.figures import Figure, cells
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.methods import control_name, title_of
from sae_core.foundation.numbers import MISSING, compact
from sae_core.foundation.run import Run


def by_ensemble(costs: Mapping[str, Any]) -> dict[str, Any]:
    """Costs by ensemble from evaluation/cost.json, which in earlier runs held nothing else."""
    found: dict[str, Any] = costs.get("ensembles", costs)
    return found


def summarize(run: Run) -> list[dict[str, Any]]:
    """The figures by which ensembles are compared, one dict per ensemble.

    Keys are the rows that figures declare (`Figure.row`, with _low and _high where it ``ends`` them; what is not
    measured is None), and besides: ensemble, stages (members that learn one after another, else 1), evaluation_tokens,
    cross_entropies (of the model, with zero and with mean ablation) and retrains (runs compared; both the same for all
    ensembles), train_tokens (of each SAE) and train_steps (of the optimiser, one after another). Figures that begin
    with control_ are those of stage 1 and random stages.
    """
    parts = {source: ensembles_measured(run, source) for source in {figure.source for figure in _SHOWN}}
    loss, stability, tokens = measured(run, LOSSES), measured(run, OVER_RUNS), evaluation_tokens(run)
    concepts = means_of(read_means(run))
    rows = []
    for folder in run.ensembles():
        name, manifest, effort = folder.name, read_manifest(folder), effort_of(run, folder.name)
        own = {source: part.get(name, {}) for source, part in parts.items()}
        row: dict[str, Any] = {
            "ensemble": name,
            **cells(EXPLAINED, own),
            "stages": manifest.stages,
            **cells(CONTROL, own),
            **_detected(concepts, control_name(name), control=True),
            "evaluation_tokens": tokens,
            **cells(LOSS, own),
            "cross_entropies": loss.get("cross_entropy"),
            **cells(ERRORS, own),
            **cells(DICTIONARY, own),
            "retrains": len(stability.get("runs", ())) or None,
            **cells(STABILITY, own),
            **cells(SECOND_STAGE, {STAGE: _second_stage(own[OVER_RUNS.name])}),
            **_detected(concepts, name),
            **cells(FOUND, own),
            "train_tokens": effort.tokens,
            "train_steps": effort.steps,
            **cells(COST, own),
        }
        row["members"] = row["members"] or len(manifest.members)
        row["features"] = row["features"] or sum(manifest.widths)
        rows.append(row)
    return rows


_SHOWN = (*EXPLAINED, *CONTROL, *LOSS, *ERRORS, *DICTIONARY, *STABILITY, *FOUND, *COST)
STAGE = SECOND_STAGE[0].source


def ensembles_measured(run: Run, source: str) -> dict[str, Any]:
    """The part of each ensemble in the file of an evaluation; empty if it is not measured.

    The scores on a known dictionary also hold what is reconstructed, and the controls.
    """
    if source == RECALL.source:
        return dict(read_truth(run).get("ensembles", {})) if run.evaluation(source).exists() else {}
    content = read_object(run.evaluation(source)) if run.evaluation(source).exists() else {}
    if source == TRAIN_FLOPS.source:
        return by_ensemble(content)
    known: dict[str, Any] = {}
    if source in (EXPLAINED_VARIANCE.source, CONTROL_EXPLAINED.source):
        known = ensembles_measured(run, RECALL.source)
    if source == CONTROL_EXPLAINED.source:
        known = {name: own["control"] for name, own in known.items() if "control" in own}
    return {**known, **content.get("ensembles", {})}


def evaluation_tokens(run: Run) -> int | None:
    """Number of held-out tokens on which a run's ensembles were measured."""
    found: int | None = measured(run, RECONSTRUCTION).get("tokens") or measured(run, KNOWN).get("rows")
    return found


def _second_stage(retrained: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first stage that learns a residual, over trainings; nothing where that is not measured."""
    return dict([*(retrained.get("by_stage") or []), {}, {}][1])


def _detected(means: Mapping[tuple[str, str], Mean], name: str, *, control: bool = False) -> dict[str, float | None]:
    """Mean accuracies of a method; intervals of those that methods are compared by."""
    found: dict[str, float | None] = {}
    for figure in (detection(m, variant, control=control) for m in SHOWN for variant in (PLAIN, STANDARDISED)):
        mean = means.get((name, figure.path))
        found[figure.row] = mean and mean.accuracy
        if figure.ends:
            for ending, end in (("low", mean and mean.low), ("high", mean and mean.high)):
                found[f"{figure.row}_{ending}"] = None if end is None or math.isnan(end) else end
    return found


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row of `summarize` for people: column heads with units, rounded figures, a dash for what is not measured."""
    explained, write = EXPLAINED_VARIANCE.row, EXPLAINED_VARIANCE.terminal
    stability = () if row["retrains"] is None else (*STABILITY, *SECOND_STAGE)
    found = () if row[RECALL.row] is None else FOUND
    return {
        "ensemble": title_of(row["ensemble"]),
        "SAEs × features": f"{row['members']} × {row['features'] // row['members']}",
        **_lines(row, EXPLAINED_VARIANCE),
        "  95 % from": write(row[f"{explained}_low"]),
        "  to": write(row[f"{explained}_high"]),
        **_lines(row, *(figure for figure in EXPLAINED if figure is not EXPLAINED_VARIANCE)),
        **_control(row),
        **_lines(row, *LOSS, *ERRORS, *DICTIONARY, *stability),
        **{key: value for m in SHOWN for key, value in _detection(row, m).items()},
        **_lines(row, *found),
        "tokens an SAE": compact(row["train_tokens"]),
        "steps": compact(row["train_steps"]),
        **_lines(row, TRAIN_FLOPS, *(figure for figure in COST if figure is not TRAIN_FLOPS)),
    }


def _lines(row: Mapping[str, Any], *figures: Figure) -> dict[str, str]:
    """The lines of those figures that the terminal shows."""
    model = (row["cross_entropies"] or {}).get("model")
    said = {"evaluation_tokens": row["evaluation_tokens"] or 0, "retrains": row["retrains"]}
    said["of_model"] = "" if model is None else f" (model {model:.3f})"
    return {figure.line.format(**said): figure.terminal(row[figure.row]) for figure in figures if figure.line}


def _detection(row: Mapping[str, Any], m: int) -> dict[str, str]:
    """Accuracy with m standardised features, its interval, and what stage 1 and random stages reach."""
    own, control = detection(m), detection(m, control=True)
    low, high = row[f"{own.row}_low"], row[f"{own.row}_high"]
    said = MISSING if low is None or high is None else f"{100 * low:.1f}–{high:.1%}"
    unmeasured = row["stages"] > 1 and row[own.row] is not None and row[control.row] is None
    beside = {control.line: "unmeasured"} if unmeasured else _lines(row, control)
    return {**_lines(row, own), f"  {m}: 95 %": said, **beside}


def _control(row: dict[str, Any]) -> dict[str, str]:
    """What stage 1 and random stages explain, and what share of the gain over stage 1 that is; of boosting alone."""
    if row["stages"] > 1 and row[CONTROL_EXPLAINED.row] is None:
        return {figure.line: "unmeasured" for figure in CONTROL if figure.line}
    return _lines(row, *CONTROL)
