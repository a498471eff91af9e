"""The controls of boosted ensembles in a report: stage 1 followed by random stages, as rows beside the trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sae_core.analysis.reconstruction.figures import TABLE
from sae_core.analysis.reconstruction.stage import CONTROL
from sae_core.analysis.shared.seeds import difference, mean_interval
from sae_core.analysis.truth.files import read_truth
from sae_core.foundation.figures import Figure
from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.methods import control_name, title_of
from sae_core.foundation.run import Run
from sae_core.report.figures import Found, apart, figure_of, verdict_on


def control_of(
    runs: Sequence[Run], name: str, concepts: Mapping[tuple[str, str], Found] | None = None
) -> dict[str, Any] | None:
    """The control of an ensemble over runs; None where a run has none.

    Args:
        runs: The runs.
        name: The ensemble.
        concepts: What methods detect, as `concept_means` gives it.

    Returns:
        ``figures`` as an ensemble has them, ``by_members``, ``trained_above`` (what trained stages explain more),
        ``detected_above`` (what they detect more, by key of the figure) and ``untrained_share``.
    """
    own = [_measured(run).get(name) for run in runs]
    found = [each for each in own if each]
    if not found or len(found) < len(own):
        return None
    figures = {figure.key: figure_of(found, figure) for figure in TABLE}
    own_name, detected = control_name(name), concepts or {}
    figures |= {f"concepts.{key}": each for (method, key), each in detected.items() if method == own_name}
    steps = zip(*(each["by_members"] for each in found), strict=True)
    return {
        "figures": {key: figure for key, figure in figures.items() if figure["mean"] is not None},
        "by_members": [
            {
                "members": same[0]["members"],
                "explained_variance": mean_interval([step["explained_variance"] for step in same]),
            }
            for same in steps
        ],
        "trained_above": _above(found),
        "detected_above": {
            f"concepts.{key}": {**above, "verdict": verdict_on(above)}
            for (method, key), each in detected.items()
            if method == name and (above := apart(each, detected.get((own_name, key)), own_name))
        },
        "untrained_share": mean_interval([each["untrained_share"] for each in found]),
    }


def _measured(run: Run) -> dict[str, Any]:
    if run.evaluation(CONTROL.name).exists():
        return dict(read_object(run.evaluation(CONTROL.name)).get("ensembles", {}))
    if not run.evaluation("truth").exists():
        return {}
    return {name: own["control"] for name, own in read_truth(run).get("ensembles", {}).items() if "control" in own}


def _above(found: Sequence[Mapping[str, Any]]) -> Found:
    """What trained stages explain more: paired by seed, or for one run by draw of the tokens."""
    above = difference([each["trained"] for each in found], [each["explained_variance"] for each in found])
    low, high = found[0]["trained_above"] if len(found) == 1 else (None, None)
    return above if low is None else {**above, "low": low, "high": high}


def rows_of(
    ensembles: Mapping[str, Mapping[str, Any]], columns: Sequence[Figure]
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(title, method, figures) of every row of a table: the ensembles, and below a boosted one its control.

    Args:
        ensembles: By name, as the report has them.
        columns: The table's; a control that has none of them is left out.
    """
    for name, own in ensembles.items():
        yield title_of(name), name, own["figures"]
        control = own.get("control")
        if control and any(shown.key in control["figures"] for shown in columns):
            yield control_name(name), "", control["figures"]
