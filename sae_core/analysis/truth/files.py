"""Read a run's scores on a known dictionary, and convert figures of earlier versions to today's definitions.

Earlier versions averaged MCC over the min(F, M) matched pairs, so a dictionary narrower than the truth lost nothing for
the features that it cannot hold. Files of these versions lack ``recall_cap``; the table beside them has the values for
the new average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sae_core.analysis.shared.bootstrap import ABOVE, Floats, differences, interval, mean_draws
from sae_core.analysis.shared.names_in_tables import FOUND, RANDOM
from sae_core.foundation.files.whole_files import read_object, read_table
from sae_core.foundation.run import Run

MEANS: Mapping[str, str] = {"recall": "recovered", "mcc": "matched", "f1": "f1"}
"""Figures that are means over true features, and the columns that they are means of."""
CAP = "recall_cap"


def values_of(figure: str, rows: pd.DataFrame, *, random: bool = False) -> Floats:
    """The values that a figure averages, one per true feature; NaN for a feature that the mean leaves out.

    Args:
        figure: One of `MEANS`. For MCC, a feature without an atom counts as 0; a feature that never fires has no F1.
        rows: The rows of one ensemble in the table of `measure_truth`.
        random: Use the values of the random twin.
    """
    column = MEANS[figure]
    values: Floats = rows[f"{RANDOM}_{column}" if random else column].to_numpy(float)
    return np.nan_to_num(values, nan=0.0) if figure == "mcc" else values


def recall_cap(features: int, atoms: int) -> float:
    """The largest recall, and the largest MCC, that M atoms can have of F true features: min(F, M) / F."""
    return min(features, atoms) / features


def read_truth(run: Run) -> dict[str, Any]:
    """Read evaluation/truth.json and convert its figures to today's definitions, for files of any version.

    If an older file does not give the number of features, MCC is left out, since the number of averaged features is
    then unknown.

    Args:
        run: A scored run.
    """
    content = read_object(run.evaluation(FOUND))
    ensembles = content.get("ensembles", {})
    if all(CAP in own for own in ensembles.values()):
        return content
    features = content.get("truth", {}).get("features")
    mended = {name: _over_all_features(own, features) for name, own in ensembles.items()}
    if features and run.evaluation_table(FOUND).exists():
        drawn = _mcc_intervals(run, int(content.get("seed", 0)))
        mended = {name: {**own, **drawn.get(name, {})} for name, own in mended.items()}
    return {**content, "ensembles": mended}


def _over_all_features(own: Mapping[str, Any], features: int | None) -> dict[str, Any]:
    """The figures of an ensemble, with its MCC and that of its random twin averaged over all true features."""
    kept = {key: value for key, value in own.items() if not key.startswith("mcc")}
    random = {key: value for key, value in own.get(RANDOM, {}).items() if key != "mcc"}
    atoms = own.get("features")
    if features and atoms and "mcc" in own:
        cap = recall_cap(features, atoms)
        kept |= {CAP: cap, "mcc": cap * own["mcc"]}
        if own.get(RANDOM, {}).get("mcc") is not None:
            random["mcc"] = cap * own[RANDOM]["mcc"]
    return {**kept, RANDOM: random} if random else kept


def _mcc_intervals(run: Run, seed: int) -> dict[str, dict[str, Any]]:
    """The intervals of MCC and of its differences, from the table, with the draws of `truth_intervals`."""
    table = read_table(run.evaluation_table(FOUND))
    if not {"ensemble", "matched", f"{RANDOM}_matched"} <= set(table.columns):
        return {}
    by_name = {str(name): rows for name, rows in table.groupby("ensemble", sort=False)}
    values = {name: values_of("mcc", rows) for name, rows in by_name.items()}
    floors = {f"{RANDOM} {name}": values_of("mcc", rows, random=True) for name, rows in by_name.items()}
    draws = mean_draws({**values, **floors}, samples=run.settings.evaluation.bootstrap, seed=seed)
    own = {name: draws[name] for name in values}
    return {
        name: {
            "mcc_interval": list(interval(own[name])),
            f"mcc{ABOVE}": differences({**own, RANDOM: draws[f"{RANDOM} {name}"]})[name],
        }
        for name in values
    }
