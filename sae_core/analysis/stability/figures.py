"""The figures of stability: whether other members, or other trainings, have the same features; beside random atoms."""

from __future__ import annotations

from functools import partial
from typing import Any

from sae_core.foundation.figures import Figure, plain, spec

_ATOMS = "random dictionaries of the same sizes (unit atoms of uniformly random directions)"
_POOLED = "Mean over features of the best cosine with any atom of all others"
_MMCS = "Mean over features of the best cosine with an atom of one other"
_ONE = "Mean cosine of atoms matched one to one; atoms of a wider dictionary that are left over count as 0"
_NOISE = "two SAEs trained as the stage on Gaussian noise of the mean and covariance of what it reads"


_stable = partial(Figure, style=plain(3), better="higher")


def random_of(key: str, title: str, of: str = _ATOMS, **more: Any) -> Figure:
    """What random dictionaries reach in a figure.

    Args:
        key: The key of what they reach.
        title: The figure.
        of: Which random dictionaries.
        more: See `Figure`.
    """
    return Figure(key, "random", f"{title} of {of}", plain(3), spread=False, terminal=spec(".2f"), **more)


def stability(key: str, pooled: str, one: str, *, row: str, lines: tuple[str, str], of: str = "") -> tuple[Figure, ...]:
    """The three figures of stability, each with what random dictionaries reach.

    Args:
        key: What the keys of the figures begin with.
        pooled: Heading of the first.
        one: What is compared: a ``member`` or a ``training``.
        row: Name of the last in the rows of `summarize`.
        lines: Headings of the last, and of what random dictionaries reach in it, in the terminal.
        of: What they are of, where it has to be said.
    """
    matched: dict[str, Any] = {"row": row, "line": lines[0], "terminal": spec(".2f")}
    return (
        _stable(f"{key}.pooled", pooled, f"{_POOLED} {one}s{of}"),
        random_of(f"{key}.null_pooled", "Pooled stability"),
        _stable(f"{key}.mmcs", "MMCS", f"{_MMCS} {one}, over ordered pairs of {one}s"),
        random_of(f"{key}.null_best", "MMCS"),
        _stable(f"{key}.pw_mcc", "One-to-one", f"{_ONE}; over pairs of {one}s", **matched),
        random_of(f"{key}.null_matched", "One-to-one stability", row=f"{row}_null", line=lines[1]),
    )


RETRAINED = stability(
    "stability",
    "Pooled",
    "training",
    row="retrain_stability",
    lines=("stability over {retrains} runs", "  random, of those sizes"),
)
"""What the table of independent trainings shows."""
STABILITY = (
    *RETRAINED,
    Figure("stability.in_all", share=True, better="higher"),
    Figure("stability.in_none", share=True, better="lower"),
)
STAGES = (
    _stable(
        "stage.pw_mcc",
        "One-to-one",
        f"{_ONE}; the stage over pairs of trainings",
        row="stage_2_stability",
        line="  stage 2 by itself",
        terminal=spec(".3f"),
    ),
    Figure(
        *("stage.noise_matched", "noise", f"One-to-one stability of {_NOISE}", plain(3)),
        row="stage_2_stability_noise",
        line="  trained on such noise",
        terminal=spec(".3f"),
    ),
    random_of("stage.null_matched", "One-to-one stability"),
    _stable("stage.mmcs", "MMCS", f"{_MMCS} training; the stage over ordered pairs of trainings"),
    Figure("stage.noise_best", "noise", f"MMCS of {_NOISE}", plain(3)),
    random_of("stage.null_best", "MMCS"),
)
"""What the table of boosted stages over trainings shows, of each stage."""
SECOND_STAGE = STAGES[:2]
"""Of the first boosted stage that learns a residual, over trainings."""
