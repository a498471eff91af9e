"""Runs on a known truth: each is scored by itself, and runs that differ in their seeds together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_core.activations.truth_run import known_activations
from sae_core.device import resolve_device
from sae_core.ensemble import load_ensemble
from sae_core.errors import UserError
from sae_core.evaluation.seeds import difference, over_seeds
from sae_core.evaluation.truth import RANDOM_FIGURES, measure_truth
from sae_core.files import read_json, write_json, write_table
from sae_core.progress import Progress, silent
from sae_core.run import Run, evaluation_of_runs

STAGE = "truth"
"""Name of the evaluation; recorded as ``evaluate/truth``."""
FIGURES = (
    *("recall", "mcc", "precision", "precision_alive", "f1", "uniqueness", "latents.f1"),
    *("explained_variance", "l0", "features", "dead_fraction", "deduplicated"),
    *(f"random.{name}" for name in RANDOM_FIGURES),
)
"""What is averaged over seeds."""
BASELINE = "single"
"""The ensemble to which the others are compared, seed by seed."""
COMPARED = ("recall", "mcc", "precision", "f1", "explained_variance")


def score_run(run: Run, *, progress: Progress = silent, device: str | None = None) -> None:
    """Score the ensembles of a run whose activations come from a known dictionary; skipped if that was done.

    Args:
        run: The run, trained. Its activations are drawn anew, so its caches may be gone.
        progress: Told about activations and dictionaries.
        device: Where to encode; the one in the settings if not given.

    Raises:
        UserError: If the truth is not known, or nothing is trained.
    """
    if run.is_finished(f"evaluate/{STAGE}"):
        return
    started = time.perf_counter()
    device = resolve_device(device or run.settings.training.device)
    known = known_activations(run, "evaluation")
    ensembles = {folder.name: load_ensemble(folder, device=device) for folder in run.ensembles()}
    if not ensembles:
        raise UserError(f"{run.path} holds no trained ensemble; run sae-ensemble train on it first.")
    facts, table = measure_truth(
        ensembles,
        known,
        run.settings.data.evaluation_tokens,
        bootstrap=run.settings.evaluation.bootstrap,
        seed=run.settings.training.seed,
        device=device,
        progress=progress,
    )
    write_table(run.evaluation_table(STAGE), table)
    write_json(run.evaluation(STAGE), facts)
    files = [run.evaluation(STAGE), run.evaluation_table(STAGE)]
    run.finish(f"evaluate/{STAGE}", {"seconds": time.perf_counter() - started, "device": device}, files=files)


def score_together(path: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Put the scores of several runs together and write them to the folder in which these lie.

    Args:
        path: The folder.
        runs: Scored runs that differ in their seeds.

    Returns:
        ``seeds``, ``truth`` (the settings), ``threshold`` and for each of the ``ensembles`` mean, 95 % interval and
        values of every figure, of recall and F1 by frequency (``by_frequency``), and ``against_single``: of the
        difference to the single SAE of the same seed.
    """
    scores = [read_json(run.evaluation(STAGE)) for run in runs]
    names = [name for name in scores[0]["ensembles"] if all(name in score["ensembles"] for score in scores)]
    ensembles = {}
    for name in names:
        own = [score["ensembles"][name] for score in scores]
        base = [score["ensembles"].get(BASELINE, {}) for score in scores]
        ensembles[name] = {**over_seeds(own, FIGURES), "by_frequency": _by_frequency(own)}
        if name != BASELINE and BASELINE in names:
            ensembles[name]["against_single"] = {
                figure: difference([one[figure] for one in own], [one[figure] for one in base]) for figure in COMPARED
            }
    settings = runs[0].settings
    facts = {
        "seeds": [run.settings.training.seed for run in runs],
        "runs": [run.name for run in runs],
        "threshold": scores[0]["threshold"],
        "rows": scores[0]["rows"],
        "truth": {**scores[0]["truth"], "settings": settings.truth.model_dump(mode="json")},
        "ensembles": ensembles,
    }
    write_json(evaluation_of_runs(path, STAGE), facts)
    return facts


def _by_frequency(own: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bins of the first seed, with the figures of all; probabilities depend on the settings alone, so do bins."""
    return [
        {
            **{key: own[0]["by_frequency"][number][key] for key in ("from", "to", "features")},
            **over_seeds([one["by_frequency"][number] for one in own], ("recall", "cosine", "f1")),
        }
        for number in range(len(own[0]["by_frequency"]))
    ]


def as_text(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
    """One ensemble of `score_together` for people: means, with half the width of their intervals."""

    def cell(figure: Mapping[str, Any], style: str = ".3f") -> str:
        if figure["mean"] is None:
            return "–"
        text = format(figure["mean"], style)
        return text if figure["low"] is None else f"{text} ± {(figure['high'] - figure['low']) / 2:.3f}"

    def plain(key: str, style: str = ".3f") -> str:
        return "–" if figures[key]["mean"] is None else format(figures[key]["mean"], style)

    rows = {"ensemble": name, "features": plain("features", ".0f"), "L0": plain("l0", ".1f")}
    for title, key in (("recall", "recall"), ("MCC", "mcc"), ("precision", "precision"), ("F1", "f1")):
        rows[title] = cell(figures[key])
        rows[f"  random {title}"] = plain(f"random.{key}")
    for part in figures["by_frequency"]:
        rows[f"recall, p from {part['from']:g}"] = cell(part["recall"])
    rows["explained variance"] = cell(figures["explained_variance"])
    rows["dead"] = plain("dead_fraction", ".1%")
    return rows
