"""Features near to one: by their atoms in the other members and in its own, and by firing on the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from dashboard.shared.address import Here
from dashboard.shared.look.cards import what_to_run
from dashboard.shared.reads import label_store, one_feature, tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.feature.side import Near, near_html
from sae_core.foundation.numbers import decimal, percent
from sae_core.report.html import Html
from sae_core.report.pieces.cards import section

_COSINE = "The cosine of the two atoms: 1 is the same direction, 0 is none in common, −1 the opposite direction"


class _Names(NamedTuple):
    """What features are called."""

    labels: Mapping[int, str]
    suggestions: pd.Series | None

    def of(self, feature: int) -> tuple[str, bool]:
        """(its label, or else the suggested one; whether it is only suggested)."""
        label = self.labels.get(feature, "")
        suggested = "" if self.suggestions is None else str(self.suggestions.iloc[feature])
        return label or suggested, not label


def near_features(
    here: Here, info: EnsembleInfo, feature: int, atoms: pd.DataFrame, query: dict[str, str]
) -> list[Html]:
    """All three lists as HTML, those of which the run has nothing left out.

    Args:
        here: What the page looks at.
        info: The ensemble.
        feature: The feature.
        atoms: The table of all features.
        query: What links to other features carry.
    """
    suggestions = tables.suggestions(here.run, info.name)
    suggested = None if suggestions is None else suggestions["suggestion"]
    names = _Names(label_store.label_texts(here.run, info.name), suggested)
    return [
        _elsewhere(here, info, feature, query, names),
        _within(here, info, feature, atoms, query, names),
        _together(here, info, feature, atoms, query, names),
    ]


def _elsewhere(here: Here, info: EnsembleInfo, feature: int, query: dict[str, str], names: _Names) -> Html:
    if info.members < 2:
        return Html()
    matches = one_feature.matches_of(here.run, info.name, feature)
    if matches is None:
        return what_to_run("index", here.run.path, "The members are not matched yet")
    found = []
    tokens = one_feature.peak_tokens(here.run, info.name, [match.best_feature for match in matches], count=4)
    for match in sorted(matches, key=lambda match: -match.best_cosine):
        other = match.best_feature
        said = f"cosine {decimal(match.best_cosine)}{' · one-to-one match' if match.matched_feature == other else ''}"
        found.append(Near(other, match.other_member, said, tokens[other], *names.of(other), definition=_COSINE))
    return near_html(
        f"Nearest atoms in the other {info.member_word}s",
        "The most similar feature of each, by the cosine of their atoms; 1 is the same direction.",
        found,
        query,
        staged=info.staged,
    )


def _within(
    here: Here, info: EnsembleInfo, feature: int, atoms: pd.DataFrame, query: dict[str, str], names: _Names
) -> Html:
    title = f"Nearest atoms in its own {info.member_word}" if info.members > 1 else "Nearest atoms of the dictionary"
    found = one_feature.nearest_within(here.run, info.name, feature)
    if found is None:
        why = "Duplicates and parts of a feature that was split; this run was indexed by a version that had none."
        return section(title) + what_to_run("index", here.run.path, "They are not found yet", why)
    nearest, chance = found
    if nearest.empty:
        return Html()
    dead, top_token = atoms["dead"], atoms["top_token"]
    near = [
        Near(
            other,
            None,
            f"cosine {cosine:z.2f}{' · dead' if dead.iloc[other] else ''}",
            [] if dead.iloc[other] else [str(top_token.iloc[other])],
            *names.of(other),
            definition=_COSINE,
        )
        for other, cosine in zip(nearest["feature"].tolist(), nearest["cosine"].tolist(), strict=True)
    ]
    return near_html(
        title,
        "By cosine: its duplicates, near 1, and parts of a feature that was split. Of as many random atoms the "
        f"nearest has {decimal(chance)}.",
        near,
        query,
        staged=info.staged,
    )


def _together(
    here: Here, info: EnsembleInfo, feature: int, atoms: pd.DataFrame, query: dict[str, str], names: _Names
) -> Html:
    pairs = one_feature.often_together(here.run, info.name, feature)
    if pairs is None or pairs.empty:
        return Html()
    top_token = atoms["top_token"]
    found = [
        Near(
            other,
            info.place(other)[0],
            f"lift {decimal(lift, 1)} · on {percent(share, 0)} of its {here.words.rows}",
            [str(top_token.iloc[other])],
            *names.of(other),
        )
        for other, lift, share in zip(*(pairs[name].tolist() for name in ("feature", "lift", "share")), strict=True)
    ]
    return near_html(
        "Fires together with",
        f"Features on the same {here.words.rows}; lift is how many times more often than if they were independent.",
        found,
        query,
        staged=info.staged,
    )
