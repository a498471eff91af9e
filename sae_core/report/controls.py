"""The controls of boosted ensembles in a report: stage 1 followed by random stages, as rows beside the trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sae_core.analysis.reconstruction.figures import TABLE
from sae_core.analysis.reconstruction.stage import CONTROL
from sae_core.analysis.shared.seeds import difference, mean_interval
from sae_core.analysis.summary import ensembles_measured
from sae_core.analysis.truth.figures import COMPARED, PRECISE, TRUTH
from sae_core.analysis.truth.stage import TRUTH as KNOWN
from sae_core.foundation.figures import Figure
from sae_core.foundation.methods import control_name, title_of
from sae_core.foundation.run import Run
from sae_core.report.figures import Found, apart, concept_means, figure_of, verdict_on


def control_of(runs: Sequence[Run], name: str, trained: Mapping[str, Found]) -> dict[str, Any] | None:
    """The control of an ensemble over runs; None where a run has none.

    Args:
        runs: The runs.
        name: The ensemble.
        trained: The figures of the ensemble, as `ensemble_figures` gives them.

    Returns:
        ``figures`` as an ensemble has them, ``by_members``, ``trained_above`` (the explained variance that trained
        stages add), ``detected_above`` and ``found_above`` (by key of the figure what they add to detection and to
        what is found of a known dictionary) and ``untrained_share``.
    """
    own = [ensembles_measured(run, CONTROL.name).get(name) for run in runs]
    found = [each for each in own if each]
    if not found or len(found) < len(own):
        return None
    # Older runs know of a control only what it explains, and nothing of the truth.
    of_truth = [ensembles_measured(run, KNOWN.name).get(name, {}).get("control", {}) for run in runs]
    own_name = control_name(name)
    figures = {figure.key: figure_of(found, figure) for figure in TABLE}
    figures |= {figure.key: figure_of(of_truth, figure) for figure in TRUTH}
    figures |= {f"concepts.{key}": each for (method, key), each in concept_means(runs).items() if method == own_name}
    figures = {key: figure for key, figure in figures.items() if figure["mean"] is not None}
    above = {
        key: {**difference, "verdict": verdict_on(difference)}
        for key, figure in trained.items()
        if (difference := apart(figure, figures.get(key), own_name, by_draw=key != PRECISE.key))
    }
    steps = zip(*(each["by_members"] for each in found), strict=True)
    return {
        "figures": figures,
        "by_members": [
            {
                "members": same[0]["members"],
                "explained_variance": mean_interval([step["explained_variance"] for step in same]),
            }
            for same in steps
        ],
        "trained_above": _above(found),
        "detected_above": {key: each for key, each in above.items() if key.startswith("concepts.")},
        "found_above": {figure.key: above[figure.key] for figure in COMPARED.values() if figure.key in above},
        "untrained_share": mean_interval([each["untrained_share"] for each in found]),
    }


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
