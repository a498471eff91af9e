"""The figures of dictionaries: how many of their atoms differ, and whether members have the same."""

from __future__ import annotations

from dataclasses import replace

from sae_core.analysis.reconstruction.figures import FEATURES
from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.stability.figures import stability
from sae_core.foundation.figures import Figure, percents, plain, spec, titled
from sae_core.foundation.numbers import whole

DIVERSE = Figure(
    "dictionary.diversity_fraction",
    "of all",
    f"Diverse features as a share of all features: their cosine with every other one is below {THRESHOLD:g}",
    percents(),
    share=True,
    better="higher",
    line="diverse",
    terminal=spec(".1%"),
    overview="Diverse",
    swept=True,
)
_MEMBERS = stability(
    "dictionary.member_stability",
    "Pooled stability",
    "member",
    row="member_stability",
    lines=("member stability", "  random dictionaries"),
    of=" of the ensemble",
)
MEMBER_STABILITY = replace(_MEMBERS[-2], overview="Member stability", short=plain(2), swept=True)
DICTIONARY = (
    Figure(
        "dictionary.diversity",
        "Diverse",
        f"Features whose cosine with every other one is below {THRESHOLD:g}; two copies both drop out",
        whole,
        better="higher",
    ),
    DIVERSE,
    Figure(
        "dictionary.deduplicated",
        "De-duplicated",
        f"Features left when those with a cosine of {THRESHOLD:g} with a kept one are dropped",
        whole,
        better="higher",
    ),
    Figure(
        *("dictionary.redundancy", "Redundant", "Share of the features that de-duplication drops", percents()),
        share=True,
        better="lower",
    ),
    Figure(
        "dictionary.connectivity",
        "Connectivity",
        "Share of pairs of alive features that never fire on the same token",
        plain(3),
        share=True,
        row="connectivity",
    ),
    *(Figure("dictionary.nearest_cosine"), Figure("dictionary.null_nearest")),
    *_MEMBERS[:-2],
    MEMBER_STABILITY,
    _MEMBERS[-1],
)
TABLE = titled(FEATURES, *DICTIONARY)
