"""All figures of ensembles in order, each declared in the folder of its subject."""

from __future__ import annotations

from sae_core.analysis.atoms.figures import DICTIONARY
from sae_core.analysis.concepts.figures import CONTROL_DETECTION, DETECTION, SHOWN, detection
from sae_core.analysis.cost.figures import COST
from sae_core.analysis.reconstruction.figures import CONTROL, ERRORS, EXPLAINED, LOSS
from sae_core.analysis.stability.figures import STABILITY
from sae_core.analysis.truth.figures import SUMMARY, TRUTH
from sae_core.foundation.figures import Figure

REPORTED: tuple[Figure, ...] = (*EXPLAINED, *ERRORS, *DICTIONARY, *COST, *LOSS, *TRUTH, *STABILITY)
"""What a report holds of each ensemble, besides detection."""
BY_MEMBERS = {
    **{figure.path: figure for figure in REPORTED if figure.said},
    **{f"detection_{m}": detection(m) for m in SHOWN},
}
"""What the first members of an ensemble may reach, by its place in the entries ``by_members``."""
OVERVIEW = tuple(figure for figure in (*EXPLAINED, *LOSS, *ERRORS, *DICTIONARY, *DETECTION, *COST) if figure.overview)
"""What the first page compares ensembles by."""
SWEPT = tuple(
    figure
    for figure in (*EXPLAINED, *CONTROL, *ERRORS, *DICTIONARY, *DETECTION, *CONTROL_DETECTION, *SUMMARY, *LOSS, *COST)
    if figure.swept
)
"""What is averaged over the seeds of a sweep."""
