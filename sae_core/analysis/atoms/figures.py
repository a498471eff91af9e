"""The figures of dictionaries: how many of their atoms differ, and whether members have the same."""

from __future__ import annotations

from dataclasses import replace

from sae_core.analysis.reconstruction.figures import FEATURES
from sae_core.analysis.shared.names_in_tables import THRESHOLD
from sae_core.analysis.stability.figures import stability
from sae_core.foundation.figures import Figure, percents, plain, spec, titled
from sae_core.foundation.numbers import whole

DIVERSE = Figure(
    key="dictionary.diversity_fraction",
    title="of all",
    definition=f"Diverse features as a share of all features: their cosine with every other one is below {THRESHOLD:g}",
    style=percents(),
    share=True,
    better="higher",
    row="diversity_fraction",
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
        key="dictionary.diversity",
        title="Diverse",
        definition=f"Features whose cosine with every other one is below {THRESHOLD:g}; two copies both drop out",
        style=whole,
        better="higher",
    ),
    DIVERSE,
    Figure(
        key="dictionary.deduplicated",
        title="De-duplicated",
        definition=f"Features left when those with a cosine of {THRESHOLD:g} with a kept one are dropped",
        style=whole,
        better="higher",
    ),
    Figure(
        key="dictionary.redundancy",
        title="Redundant",
        definition="Share of the features that de-duplication drops",
        style=percents(),
        share=True,
        better="lower",
    ),
    Figure(
        key="dictionary.connectivity",
        title="Connectivity",
        definition="Share of pairs of alive features that never fire on the same token",
        style=plain(3),
        share=True,
        row="connectivity",
    ),
    Figure(key="dictionary.nearest_cosine"),
    Figure(key="dictionary.null_nearest"),
    *_MEMBERS[:-2],
    MEMBER_STABILITY,
    _MEMBERS[-1],
)
TABLE = titled(FEATURES, *DICTIONARY)
