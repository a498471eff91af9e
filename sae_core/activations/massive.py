"""Massive activations: how much of the energy a few tokens carry, and how much of the variance one dimension does.

A figure such as explained variance is a sum over tokens and dimensions. Where a few attention sinks, or one dimension,
carry most of that sum, the figure is about those alone (Sun et al. 2024, *Massive Activations in Large Language
Models*). So their share is measured and said. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sae_core.activations.store.cache import ActivationCache

LARGEST = 1000
"""The largest tokens are one in so many, and at least one."""
CONSPICUOUS = 0.1
"""Shares above this are said."""
_BLOCKS, _BLOCK_ROWS = 256, 1024
"""Of a larger cache so many blocks of rows are looked at, spread evenly."""


def measure_massive(cache: ActivationCache) -> dict[str, Any]:
    """Look at the rows of a cache, or at 262,144 of them.

    Returns:
        ``rows`` looked at; ``largest_rows``, how many of them count as the largest; ``largest_rows_energy``, their
        share of Σ‖a‖²; ``norm_ratio``, the largest norm over the median one; ``dimension`` with the largest variance,
        and ``dimension_variance``, its share of the variance of all dimensions.
    """
    starts = list(range(0, cache.rows, _BLOCK_ROWS))
    if len(starts) > _BLOCKS:
        starts = [int(start) for start in np.linspace(0, cache.rows - _BLOCK_ROWS, _BLOCKS)]
    sum_D, squares_D, norms = np.zeros(cache.d_in), np.zeros(cache.d_in), []
    for start in starts:
        acts_BD = cache.read(start, min(start + _BLOCK_ROWS, cache.rows)).numpy().astype(np.float64)
        sum_D += acts_BD.sum(axis=0)
        np.square(acts_BD, out=acts_BD)
        squares_D += acts_BD.sum(axis=0)
        norms.append(acts_BD.sum(axis=1))
    energy_R = np.sort(np.concatenate(norms))
    rows = len(energy_R)
    variance_D = np.maximum(squares_D - sum_D**2 / rows, 0)
    largest = max(1, rows // LARGEST)
    return {
        "rows": rows,
        "largest_rows": largest,
        "largest_rows_energy": _share(energy_R[-largest:].sum(), energy_R.sum()),
        "norm_ratio": _share(energy_R[-1] ** 0.5, np.median(energy_R) ** 0.5),
        "dimensions": cache.d_in,
        "dimension": int(variance_D.argmax()),
        "dimension_variance": _share(variance_D.max(), variance_D.sum()),
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def about_activations(facts: Mapping[str, Any]) -> list[str]:
    """What is conspicuous about a run's activations, in sentences: tokens left out, and massive activations.

    Args:
        facts: What was recorded of the stage; older runs have nothing.
    """
    said, out, found = [], facts.get("left_out"), facts.get("massive")
    if out:
        limit = f" Kept are norms up to {out['limit']:.4g}." if out.get("limit") else ""
        said.append(
            f"Left out of training and of the held-out figures: {out['train']['rows']:,} of {facts['train_rows']:,} "
            f"training tokens, which carry {out['train']['energy']:.1%} of their energy, and "
            f"{out['evaluation']['rows']:,} held-out ones.{limit} No feature fires on such a token."
        )
    if not found:
        return said
    # Of few rows or dimensions, one carries much anyway.
    if found["largest_rows_energy"] > max(CONSPICUOUS, 3 * found["largest_rows"] / found["rows"]):
        said.append(
            f"Massive activations: {found['largest_rows']:,} of {found['rows']:,} rows, those with the largest norms "
            f"(up to {found['norm_ratio']:.0f} times the median), carry {found['largest_rows_energy']:.0%} of the "
            "energy, so explained variance is mostly about these. With text, --set data.largest_norm=10 leaves out "
            "tokens above 10 times the median norm."
        )
    if found["dimension_variance"] > max(CONSPICUOUS, 3 / found["dimensions"]):
        said.append(
            f"Dimension {found['dimension']} alone carries {found['dimension_variance']:.0%} of the variance; look at "
            "the explained variance per dimension too."
        )
    return said
