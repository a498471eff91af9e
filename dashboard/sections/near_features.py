"""Features near to one: by their atoms in the other members and in its own, and by firing on the same tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dashboard import queries
from dashboard.address import Here
from dashboard.parts.cards import section, what_to_run
from dashboard.parts.feature_side import Near, near_html
from dashboard.parts.numbers import decimal, percent

_COSINE = "The cosine of the two atoms: 1 is the same direction, 0 is none in common, −1 the opposite direction"


def near_features(here: Here, info: queries.EnsembleInfo, feature: int, query: dict[str, str]) -> list[str]:
    """All three lists as HTML, those of which the run has nothing left out.

    Args:
        here: What the page looks at.
        info: The ensemble.
        feature: The feature.
        query: What links to other features carry.
    """
    labels = {label.feature: label.label for label in queries.label_list(here.run) if label.ensemble == info.name}
    return [
        _elsewhere(here, info, feature, query, labels),
        _within(here, info, feature, query, labels),
        _together(here, info, feature, query, labels),
    ]


def _elsewhere(
    here: Here, info: queries.EnsembleInfo, feature: int, query: dict[str, str], labels: Mapping[int, str]
) -> str:
    if info.members < 2:
        return ""
    table = queries.matches(here.run, info.name)
    if table is None:
        return what_to_run("index", here.run.path, "The members are not matched yet")
    # By NumPy, as a large ensemble has a million rows.
    mine = table.iloc[np.flatnonzero(table["feature"].to_numpy() == feature)]
    mine = mine.sort_values("best_cosine", ascending=False)
    found = []
    names = _names(here, info, labels, [int(other) for other in mine["best_feature"]])
    for match in mine.to_dict("records"):
        other = int(match["best_feature"])
        paired = " · one-to-one match" if int(match["matched_feature"]) == other else ""
        said = f"cosine {decimal(match['best_cosine'])}{paired}"
        tokens = queries.peak_tokens(here.run, info.name, other, count=4)
        found.append(Near(other, int(match["other_member"]), said, tokens, *names[other], definition=_COSINE))
    return near_html(
        f"Nearest atoms in the other {info.member_word}s",
        "The most similar feature of each, by the cosine of their atoms; 1 is the same direction.",
        found,
        query,
        staged=info.staged,
    )


def _within(
    here: Here, info: queries.EnsembleInfo, feature: int, query: dict[str, str], labels: Mapping[int, str]
) -> str:
    title = f"Nearest atoms in its own {info.member_word}" if info.members > 1 else "Nearest atoms of the dictionary"
    found, atoms = queries.nearest_within(here.run, info.name, feature), queries.atoms(here.run, info.name)
    if found is None or atoms is None:
        why = "Duplicates and parts of a feature that was split; this run was indexed by a version that had none."
        return section(title) + what_to_run("index", here.run.path, "They are not found yet", why)
    nearest, chance = found
    if nearest.empty:
        return ""
    names = _names(here, info, labels, nearest["feature"].tolist())
    near = [
        Near(
            other,
            None,
            f"cosine {cosine:z.2f}{' · dead' if atoms['dead'].iloc[other] else ''}",
            [] if atoms["dead"].iloc[other] else [str(atoms["top_token"].iloc[other])],
            *names[other],
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
    here: Here, info: queries.EnsembleInfo, feature: int, query: dict[str, str], labels: Mapping[int, str]
) -> str:
    pairs, atoms = queries.often_together(here.run, info.name, feature), queries.atoms(here.run, info.name)
    if pairs is None or pairs.empty or atoms is None:
        return ""
    names = _names(here, info, labels, [int(other) for other in pairs["feature"]])
    found = [
        Near(
            int(pair["feature"]),
            info.place(int(pair["feature"]))[0],
            f"lift {decimal(pair['lift'], 1)} · on {percent(pair['share'], 0)} of its tokens",
            [str(atoms["top_token"].iloc[int(pair["feature"])])],
            *names[int(pair["feature"])],
        )
        for pair in pairs.to_dict("records")
    ]
    return near_html(
        "Fires together with",
        "Features on the same tokens; lift is how many times more often than if they were independent.",
        found,
        query,
        staged=info.staged,
    )


def _names(
    here: Here, info: queries.EnsembleInfo, labels: Mapping[int, str], features: Iterable[int]
) -> dict[int, tuple[str, bool]]:
    """(label, or else suggested label; whether it is only suggested) of each feature."""
    suggestions = queries.suggestions(here.run, info.name)
    names = {}
    for feature in features:
        suggested = "" if suggestions is None else str(suggestions["suggestion"].iloc[feature])
        label = labels.get(feature, "")
        names[feature] = (label or suggested, not label)
    return names
