"""Bootstrap intervals of scores on a known dictionary after one training.

An interval of recall, MCC or F1 draws the true features; an interval of precision draws the ensemble's atoms. So the
interval shows how much a score depends on the features that this dictionary happens to have (or on the atoms that this
ensemble happens to have learnt), with the atoms, the matching and the activations fixed. The interval does not cover
another training, another dictionary or other activations, which change the scores of all features together; several
seeds cover these. If all units agree, for example if nothing is found, the interval is a point, although another
dictionary might give another score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sae_core.analysis.reconstruction.reconstruction import defined
from sae_core.analysis.shared.bootstrap import ABOVE, Floats, differences, interval, mean_draws, share_draws
from sae_core.analysis.shared.names_in_tables import PRECISION, RANDOM
from sae_core.analysis.truth.files import MEANS, values_of


def truth_intervals(
    table: pd.DataFrame, atoms: Mapping[str, Sequence[tuple[float, int]]], *, samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """The 95 % intervals of recall, MCC, F1 and precision of each ensemble, and of the differences between ensembles.

    MCC counts a drawn feature without an atom as 0; F1 is a mean over the features that fire.

    Args:
        table: One row per ensemble and true feature, with the columns of `MEANS` and the same of random twins.
        atoms: By ensemble precision and number of its de-duplicated atoms, then the same of its random twin.
        samples: Bootstrap samples.
        seed: Of the draws.

    Returns:
        By ensemble ``<figure>_interval``, and ``<figure>_above``: by other ensembles and ``random`` the interval of the
        difference, paired but for precision.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in atoms}
    by_name = {name: table[table["ensemble"] == name] for name in atoms}
    for figure in MEANS:
        values = {name: values_of(figure, rows) for name, rows in by_name.items()}
        floors = {f"{RANDOM} {name}": values_of(figure, rows, random=True) for name, rows in by_name.items()}
        # All ensembles at once, so that they have the same draws of features.
        draws = mean_draws({**values, **floors}, samples=samples, seed=seed)
        _add(found, figure, {name: draws[name] for name in atoms}, {name: draws[f"{RANDOM} {name}"] for name in atoms})
    own: dict[str, Floats] = {}
    twins: dict[str, Floats] = {}
    for number, (name, both) in enumerate(atoms.items()):
        # Draw separately for each ensemble: shared draws would make differences between unlike atoms look too certain.
        own[name], twins[name] = (
            share_draws(share, count, samples=samples, seed=[seed, number, twin])
            for twin, (share, count) in enumerate(both)
        )
    _add(found, PRECISION, own, twins)
    return found


def _add(
    found: Mapping[str, dict[str, Any]], figure: str, draws: Mapping[str, Floats], floors: Mapping[str, Floats]
) -> None:
    """Add the intervals of a figure to the scores of each ensemble."""
    for name, own in draws.items():
        found[name][f"{figure}_interval"] = [defined(end) for end in interval(own)]
        found[name][f"{figure}{ABOVE}"] = differences({**draws, RANDOM: floors[name]})[name]
