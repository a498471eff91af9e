"""The figures of concept detection: the accuracy with so many features, plain or standardised."""

from __future__ import annotations

from sae_core.analysis.shared.names_in_tables import PLAIN, STANDARDISED
from sae_core.foundation.figures import Figure, percents, spec
from sae_core.foundation.method import RANDOM_STAGES

SHOWN = (1, 5)
"""Numbers of features that first pages and terminals name."""


def detection(m: int, variant: str = STANDARDISED, *, control: bool = False) -> Figure:
    """The mean accuracy of detecting a concept, over concepts, then over tasks but the confounded one.

    Args:
        m: How many features a detector may use.
        variant: Coefficients as they are, or standardised, by which methods are compared.
        control: Of stage 1 and random stages in the place of a boosted ensemble.
    """
    several, compared = "s" * (m > 1), variant == STANDARDISED
    name = f"concept_accuracy_{m}" + (f"_{variant}" if compared else "")
    line = f"  {m}: {RANDOM_STAGES}" if control else f"detection, {m} feature{several}"
    return Figure(
        f"concepts.{m}.{variant}",
        f"{m} feature{several}",
        f"Mean accuracy of detecting a concept with the best {m} {variant} feature{several}; the confounded "
        "task is left out",
        percents(),
        share=True,
        better="higher",
        row=f"control_{name}" if control else name,
        ends=compared,
        line=line if compared else "",
        terminal=spec(".1%"),
        overview="Detection" if m == max(SHOWN) and compared and not control else "",
        swept=compared or not control,
        column=(f"  {RANDOM_STAGES}" if control else line) if compared and m == max(SHOWN) else "",
        compared=compared and not control and m in SHOWN,
        said=f"detection with {m} {variant} feature{several}",
    )


DETECTION = tuple(detection(m, variant) for variant in (STANDARDISED, PLAIN) for m in SHOWN)
CONTROL_DETECTION = tuple(detection(m, variant, control=True) for variant in (STANDARDISED, PLAIN) for m in SHOWN)
