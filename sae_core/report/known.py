"""What a report says of a known dictionary: what is found by frequency, and by how much more than by others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sae_core.analysis.shared.names_in_tables import FOUND, PRECISION, RANDOM
from sae_core.analysis.shared.seeds import mean_interval, within
from sae_core.analysis.truth.figures import COMPARED
from sae_core.analysis.truth.files import read_truth
from sae_core.foundation.methods import BASELINES, control_name
from sae_core.foundation.run import Run
from sae_core.report.figures import Found, apart

OTHERS = (RANDOM, *BASELINES)
"""What ensembles are compared with: random dictionaries of their sizes, and one SAE of either size."""


def found_of_truth(
    runs: Sequence[Run], figures: Mapping[str, Mapping[str, Found]], controls: Mapping[str, Mapping[str, Any] | None]
) -> dict[str, Any] | None:
    """Recall and F1 by frequency, and ``differences`` (see `differences_of`), where the truth is known.

    Args:
        runs: The runs.
        figures: Of every ensemble, as `ensemble_figures` gives them.
        controls: Of every ensemble, as `control_of` gives them.
    """
    if not all(run.evaluation(FOUND).exists() for run in runs):
        return None
    contents = [read_truth(run) for run in runs]
    bins = {}
    for name in figures:
        own = [each["ensembles"].get(name, {}) for each in contents]
        bins[name] = _by_frequency(own)
        if of_control := _by_frequency([each.get("control", {}) for each in own]):
            bins[control_name(name)] = of_control
    return {
        "threshold": contents[0].get("threshold"),
        "truth": contents[0].get("truth", {}),
        "by_frequency": bins,
        "differences": differences_of(figures, controls),
    }


def _by_frequency(own: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The bins of an ensemble or a control, over runs; none if a run has none."""
    by_run = [each.get("by_frequency", []) for each in own]
    return [
        {
            **{key: same[0][key] for key in ("from", "to", "features")},
            **{key: within(mean_interval([each.get(key) for each in same]), 0.0, 1.0) for key in ("recall", "f1")},
        }
        for same in zip(*by_run, strict=False)
    ]


def differences_of(
    figures: Mapping[str, Mapping[str, Found]], controls: Mapping[str, Mapping[str, Any] | None]
) -> list[dict[str, Any]]:
    """Rows of ``ensemble``, ``other`` and, by the keys of `COMPARED`, what the first one's figure is above the other's.

    The others are `OTHERS`, and for a boosted ensemble its control.

    With several seeds intervals are paired by seed; with one run by draw of the true features, but for precision.
    """
    rows = []
    for name, own in figures.items():
        for other in OTHERS:
            theirs = own if other == RANDOM else figures.get(other, {})
            prefix = f"truth.{RANDOM}" if other == RANDOM else "truth"
            found = {
                key: apart(own.get(f"truth.{key}"), theirs.get(f"{prefix}.{key}"), other, by_draw=key != PRECISION)
                for key in COMPARED
                if other != name
            }
            if any(found.values()):
                rows.append({"ensemble": name, "other": other, **found})
        if above := (controls.get(name) or {}).get("found_above"):
            found = {key: above.get(figure.key) for key, figure in COMPARED.items()}
            rows.append({"ensemble": name, "other": control_name(name), **found})
    return rows
