"""Combine the scores of runs on a known truth that differ in their seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE
from sae_core.analysis.shared.bootstrap import ABOVE
from sae_core.analysis.shared.names_in_tables import FOUND, RANDOM
from sae_core.analysis.shared.seeds import difference, over_seeds
from sae_core.analysis.truth.figures import COMPARED, OF_CONTROL, RANDOM_FOUND, TRUTH
from sae_core.analysis.truth.files import CAP, read_truth
from sae_core.foundation.files.whole_files import write_json
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import BASELINES, control_name
from sae_core.foundation.numbers import MISSING, signed
from sae_core.foundation.run import Run, evaluation_of_runs

FIGURES = (
    *(figure.path for figure in (*TRUTH, *OF_CONTROL, EXPLAINED_VARIANCE)),
    *("latents.f1", "l0", "features", "dead_fraction", "deduplicated"),
    *("control.explained_variance", "control.untrained_share"),
)
"""The scores to average over seeds."""
AGAINST_CONTROL = "against_control"


def score_together(path: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Put the scores of several runs together and write them to the folder in which these lie.

    Args:
        path: The folder.
        runs: Scored runs that differ in their seeds.

    Returns:
        ``seeds``, ``truth`` (the settings), ``threshold`` and for each of the ``ensembles`` mean, 95 % interval and
        values of every figure, of recall and F1 by frequency (``by_frequency``), and ``against_single``, so for the
        others of `BASELINES`, ``against_random`` and, for boosted ensembles, ``against_control``: of the difference to
        that SAE, to its own random twin, or to stage 1 and random stages, of the same seed. ``interval`` says whose
        they are: of the mean over ``seeds``, or of one training by ``bootstrap`` (see `truth_intervals`), for those
        figures that have one.
    """
    scores = [read_truth(run) for run in runs]
    names = [name for name in scores[0]["ensembles"] if all(name in score["ensembles"] for score in scores)]
    ensembles = {}
    for name in names:
        own = [score["ensembles"][name] for score in scores]
        figures = over_seeds(own, FIGURES)
        if len(runs) == 1:
            figures = {key: _ended(figure, own[0].get(f"{key}_interval")) for key, figure in figures.items()}
        ensembles[name] = {**figures, "by_frequency": _by_frequency(own)}
        for other in (other for other in BASELINES if other in names and other != name):
            theirs = [score["ensembles"][other] for score in scores]
            ensembles[name][f"against_{other}"] = _against(own, theirs, other, (*COMPARED, "explained_variance"))
        twins = [one["random"] for one in own]
        ensembles[name][f"against_{RANDOM}"] = _against(own, twins, RANDOM, COMPARED)
        controls = [one.get("control", {}) for one in own]
        if all("recall" in control for control in controls):
            ensembles[name][AGAINST_CONTROL] = _against(own, controls, control_name(name), COMPARED)
    settings = runs[0].settings
    facts = {
        "seeds": [run.settings.training.seed for run in runs],
        "runs": [run.name for run in runs],
        "threshold": scores[0]["threshold"],
        "rows": scores[0]["rows"],
        "interval": "seeds" if len(runs) > 1 else "bootstrap",
        "truth": {**scores[0]["truth"], "settings": settings.truth.model_dump(mode="json")},
        "ensembles": ensembles,
    }
    write_json(evaluation_of_runs(path, FOUND), facts)
    return facts


def _against(
    own: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], other: str, names: Iterable[str]
) -> dict[str, Any]:
    """Differences of figures to another ensemble's, seed by seed; for one seed with the bootstrap interval."""
    found = {name: difference([one[name] for one in own], [one[name] for one in theirs]) for name in names}
    if len(own) > 1:
        return found
    return {name: _ended(figure, own[0].get(f"{name}{ABOVE}", {}).get(other)) for name, figure in found.items()}


def _ended(figure: dict[str, Any], ends: Sequence[float | None] | None) -> dict[str, Any]:
    """Add the interval of one run to a figure, if the run has one."""
    low, high = ends or (None, None)
    return {**figure, "low": low, "high": high}


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

    def plain(key: str, style: str = ".3f") -> str:
        return MISSING if figures[key]["mean"] is None else format(figures[key]["mean"], style)

    rows = {"ensemble": name, "features": plain("features", ".0f"), "L0": plain("l0", ".1f")}
    rows["recall at most (width)"] = plain(CAP)
    for figure, random, control in zip(COMPARED.values(), RANDOM_FOUND, OF_CONTROL, strict=True):
        rows[figure.line] = _cell(figures[figure.path])
        rows |= {each.line: plain(each.path) for each in (random, control)}
    for part in figures["by_frequency"]:
        rows[f"recall, p from {part['from']:g}"] = _cell(part["recall"])
    rows["explained variance"] = _cell(figures["explained_variance"])
    rows[f"  {RANDOM_STAGES}"] = plain("control.explained_variance")
    rows["dead"] = plain("dead_fraction", ".1%")
    return rows


def differences_as_text(ensembles: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Differences between the scores of ensembles of `score_together`, in hundredths; a dash for the same ensemble."""
    heads = {f"against_{other}": other for other in (RANDOM, *BASELINES)} | {AGAINST_CONTROL: "random stages"}
    heads = {key: head for key, head in heads.items() if any(key in own for own in ensembles.values())}
    rows = []
    for name, own in ensembles.items():
        row = {"ensemble": name}
        for figure in COMPARED.values():
            for key, head in heads.items():
                row[f"{figure.line} − {head}"] = _points(own[key][figure.path]) if key in own else MISSING
        rows.append(row)
    return rows


def _points(figure: Mapping[str, Any]) -> str:
    """+16.0 ± 3.0: shorter than shares, so that rows fit a terminal."""
    if figure["mean"] is None:
        return MISSING
    text = signed(100 * figure["mean"], 1)
    return text if figure["low"] is None else f"{text} ± {50 * (figure['high'] - figure['low']):.1f}"


def _cell(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return MISSING
    text = f"{figure['mean']:.3f}"
    return text if figure["low"] is None else f"{text} ± {(figure['high'] - figure['low']) / 2:.3f}"
