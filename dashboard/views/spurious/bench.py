"""What a person ablates with: which features are ticked, on which bench, and the list's rows with their evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import numpy as np

from dashboard.components.tick_list import Row
from dashboard.shared.address import Here
from dashboard.shared.look.suggested import suggestion_text
from dashboard.shared.reads import label_store, one_feature, tables
from dashboard.views.spurious import data
from dashboard.views.spurious.outcomes import Names
from sae_core.analysis.shared.names_in_tables import MAINLY
from sae_core.foundation.colours import NEUTRAL, member_color
from sae_core.foundation.numbers import decimal, percent
from sae_core.report.pieces.tokens import show_alone


@dataclass
class Ticked:
    """What a person has ticked, in one session.

    Attributes:
        features: The features.
        preset: What the list in the browser starts from, at `version`.
        version: Rises when ``features`` changes from here and not by a tick.
        looked: The feature whose texts are shown.
        checked: Figures over all seeds, and of which features.
        said: What came of saving, until it is shown.
    """

    features: set[int] = field(default_factory=set)
    preset: list[int] = field(default_factory=list)
    version: int = 0
    looked: int | None = None
    checked: tuple[frozenset[int], dict[str, Any]] | None = None
    said: str = ""

    def put(self, features: Sequence[int]) -> None:
        """Replace what is ticked, in the browser's list too."""
        self.features = {int(feature) for feature in features}
        self.publish()

    def publish(self) -> None:
        """Let the browser's list start anew from what is ticked."""
        self.preset, self.version = sorted(self.features), self.version + 1


@dataclass(frozen=True, slots=True)
class Bench:
    """What the fragment works on."""

    here: Here
    facts: Mapping[str, Any]
    method: str
    seed: int
    ready: data.Bench
    ticked: Ticked
    key: str

    @property
    def names(self) -> Names:
        """What the labels are called."""
        return Names.of(self.facts)

    @property
    def widths(self) -> Sequence[int]:
        """Number of features of each member; the random dictionary has one."""
        info = self.here.ensembles.get(self.method)
        return info.widths if info else (self.ready.work.features,)

    @property
    def known(self) -> np.ndarray | None:
        """The features that fire mainly on the tokens known to say S, by rank; None where these are not known."""
        marked_M = self.ready.pooled.marked.get(self.method)
        return None if marked_M is None else self.ready.work.rank(among_M=marked_M >= MAINLY)


def rows(bench: Bench, features: Sequence[int]) -> list[Row]:
    """The rows of the list: each feature with its evidence."""
    found = data.evidence(bench.ready, bench.method, features)
    largest = max((abs(each.score) for each in found), default=0.0) or 1.0
    labels = labels_of(bench)
    return [_row(bench, each, abs(each.score) / largest, labels) for each in found]


def labels_of(bench: Bench) -> Mapping[int, str]:
    """People's labels of the ensemble's features."""
    return label_store.label_texts(bench.here.run, bench.method)


def _row(bench: Bench, found: data.Evidence, share: float, labels: Mapping[int, str]) -> Row:
    run, method, feature = bench.here.run, bench.method, found.feature
    info = bench.here.ensembles.get(method)
    member = info.place(feature)[0] if info else 0
    stronger = bench.names.spurious[found.difference > 0]
    notes = [(f"with {stronger}", f"Its mean coefficient is larger by {decimal(abs(found.difference), 3)} there")]
    if found.marked is not None:
        why = f"Share of its activation on the tokens that say {' or '.join(bench.names.spurious[::-1])}"
        notes.append((f"{percent(found.marked, 0)} on marked tokens", why))
    return Row(
        feature=feature,
        title=f"Feature {feature:,}",
        href=f"feature?{urlencode(bench.here.link(feature, ensemble=method))}" if info else "",
        color=member_color(member) if info else NEUTRAL,
        member=f"{info.member_word} {member}" if info else "random dictionary",
        label=labels.get(feature, ""),
        suggestion=_suggestion(bench, feature),
        words=[each.word for each in found.words],
        tokens=[]
        if info is None
        else [*map(show_alone, one_feature.peak_tokens(run, method, [feature], count=3)[feature])],
        share=share,
        feeds=found.score > 0,
        notes=notes,
    )


def _suggestion(bench: Bench, feature: int) -> str:
    """What is suggested for the feature, with how well that predicts it; empty without any."""
    table = tables.suggestions(bench.here.run, bench.method) if bench.method in bench.here.ensembles else None
    return "" if table is None else suggestion_text(table.iloc[feature].to_dict())
