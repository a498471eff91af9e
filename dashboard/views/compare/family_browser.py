"""Families of features, to browse: table and scatter of all, and one with its members side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.shared import address
from dashboard.shared.address import Here
from dashboard.shared.common import feature_link, missing, picked_row
from dashboard.shared.faults import fragment
from dashboard.shared.look.cards import card, notice, plain
from dashboard.shared.look.charts import CONFIG
from dashboard.shared.reads import label_store, one_feature, tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.compare import data, family_tables
from dashboard.views.compare.charts import BY
from sae_core.analysis.shared.names_in_tables import FAMILY_THRESHOLDS
from sae_core.foundation.colours import HIGHLIGHT
from sae_core.foundation.numbers import compact, decimal, percent, whole
from sae_core.report.html import Html, element
from sae_core.report.pieces.cards import chip, member_chip, muted, section
from sae_core.report.pieces.tokens import show_alone, strips, token_chips

FAMILY = "family"
"""Where the address bar holds the family that is shown."""
_MORE = 12


@fragment
def browse(here: Here, info: EnsembleInfo) -> None:
    """The section on families; what is clicked in it is shown without drawing the rest of the page anew."""
    st.html(
        section(
            "Families of matched features",
            f"Features of different {info.member_word}s that are each other's one-to-one match: by the cosine of their "
            "atoms, by the correlation of their activations, or by the overlap of their top contexts. Click a row or a "
            "point to see the family.",
        )
    )
    families, summary = data.families(here.run, info.name), data.family_summary(here.run, info.name)
    if families is None or families.empty:
        st.html(notice("There are no families", f"No two {info.member_word}s share a feature."))
        return
    if summary is None:
        missing(here, "index", "Only atoms are compared yet, not what features do")
    else:
        st.html(family_tables.sizes_table(summary, info.members, word=info.member_word))
    found, size = _controls(info, families)
    shown = family_tables.chosen(families, found, size)
    if shown.empty:
        st.html(notice("There is none of this kind", "Choose another way of matching or another size."))
        return
    where = f"{here.run.path.name}-{info.name}-{found}-{size}"
    left, right = st.columns([1.75, 1], gap="medium")
    with left:
        _table(here, info, shown, where)
    with right:
        _scatter(info, shown, where)
    _card(here, info, families, int(shown["family"].iloc[0]))


def _controls(info: EnsembleInfo, families: pd.DataFrame) -> tuple[str, int | None]:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        found = st.segmented_control(
            "Found",
            list(family_tables.FOUND),
            default="any",
            format_func=lambda way: (
                f"{family_tables.FOUND[way]} ({compact(len(family_tables.chosen(families, way, None)))})"
            ),
            key="family-found",
            required=True,
            help="Disputed: not all three ways of matching find just this family.",
        )
        sizes = sorted({int(size) for size in families["size"]}, reverse=True)
        size = st.selectbox(
            "Size",
            [None, *sizes],
            format_func=lambda size: "any size" if size is None else f"in {size} {info.member_word}s",
            key=f"family-size-{info.name}",
            width=160,
        )
    return found or "any", size


def _suggestions(here: Here, info: EnsembleInfo) -> list[str]:
    table = tables.suggestions(here.run, info.name)
    return [] if table is None else table["suggestion"].tolist()


def _choose(family: int) -> None:
    address.write({FAMILY: str(family)})


def _table(here: Here, info: EnsembleInfo, shown: pd.DataFrame, where: str) -> None:
    rows = shown.head(family_tables.MAX_ROWS)
    if len(rows) < len(shown):
        st.caption(f"The first {whole(len(rows))} of {whole(len(shown))}: the largest, of these the most frequent.")
    key = f"families-{where}"

    def clicked() -> None:
        row = picked_row(key)
        if row is not None and row < len(rows):
            _choose(int(rows["family"].iloc[row]))

    def score(help: str) -> Any:
        return st.column_config.NumberColumn(format="%.2f", help=help, width=82)

    st.dataframe(
        family_tables.as_shown(
            rows, label_store.label_texts(here.run, info.name), _suggestions(here, info), word=info.member_word
        ),
        key=key,
        hide_index=True,
        height=min(430, 37 + 35 * len(rows)),
        on_select=clicked,
        selection_mode="single-cell",
        column_config={
            "Family": st.column_config.NumberColumn(format="%d", help="Its number; the link holds it", width=56),
            f"{info.member_word.capitalize()}s": st.column_config.NumberColumn(help="How many share it", width=68),
            "Top tokens": st.column_config.TextColumn(
                help="The most frequent token among each feature's strongest", width=130
            ),
            "Cosine": score("Mean cosine of its atoms over pairs of its features"),
            "Correlation": score("Mean Pearson correlation of its features' activations over all indexed tokens"),
            "Overlap": score("Mean Jaccard index of its features' top contexts: shared contexts over all of both"),
            "Density": st.column_config.NumberColumn(
                format="%.3g %%", help="Mean share of tokens on which its features fire", width=78
            ),
            "More": st.column_config.NumberColumn(
                help="Further features whose best match is in the family: many match one", width=62
            ),
            "Found by": st.column_config.TextColumn(help="The ways of matching that find just these features"),
            "Label": st.column_config.TextColumn(
                help="The first label of its features, or else a suggestion", width=130
            ),
        },
        alt="Families of features; click a row to see one",
    )


def _scatter(info: EnsembleInfo, shown: pd.DataFrame, where: str) -> None:
    points = family_tables.points_of(shown)
    if points.empty:
        return
    key = f"family-points-{where}"

    def clicked() -> None:
        family = family_tables.picked(st.session_state.get(key))
        if family is not None:
            _choose(family)

    st.plotly_chart(
        family_tables.scatter(points, FAMILY_THRESHOLDS, word=info.member_word),
        key=key,
        on_select=clicked,
        selection_mode="points",
        config=CONFIG,
        alt="Cosine of each family's atoms against the correlation of its activations; click a point for the family",
    )


def _card(here: Here, info: EnsembleInfo, families: pd.DataFrame, otherwise: int) -> None:
    asked = st.query_params.get(FAMILY, "")
    known = asked.isascii() and asked.isdigit() and len(asked) < 10 and int(asked) < len(families)
    if asked and not known:
        text = f"This ensemble has no family “{asked[:40]}”; its families are numbered 0 to {len(families) - 1:,}."
        st.html(notice("There is no such family", text))
        return
    row = families.iloc[int(asked) if known else otherwise]
    features = list(row["features"])
    member_of = {feature: info.place(feature)[0] for feature in features}
    with st.container(border=True):
        chips = [
            chip(f"in {len(features)} of {info.members} {info.member_word}s"),
            chip("found by " + ", ".join(BY[way].lower() for way in row["found"])),
            chip(f"density {percent(row['density'], 2)}"),
        ]
        title = element("h1", f"Family {int(row['family']):,}", style="font-size:1.2rem")
        st.html(element("div", title, element("div", *chips, kind="chips"), kind="sae head"))
        _side_by_side(here, info, features, member_of)
        pairs, more = st.columns([1, 1.2], gap="large")
        with pairs:
            _pairs(here, info, features, member_of)
        with more:
            _more(here, info, features)


def _side_by_side(here: Here, info: EnsembleInfo, features: Sequence[int], member_of: Mapping[int, int]) -> None:
    atoms = tables.atoms(here.run, info.name)
    by_member = {member_of[feature]: feature for feature in features}
    complete = len(by_member) == info.members
    nearest = {} if complete else data.nearest_elsewhere(here.run, info.name, features)
    labels, suggestions = label_store.label_texts(here.run, info.name), tables.suggestions(here.run, info.name)
    peaks = one_feature.peak_tokens(here.run, info.name, by_member.values(), count=4)
    columns = st.columns(min(info.members, 4), gap="small")
    for member in range(info.members):
        with columns[member % len(columns)]:
            who = member_chip(member, stage=info.staged)
            if member not in by_member:
                _absent(here, info, nearest.get(member, {}), who)
                continue
            feature = by_member[member]
            label = _label_chip(feature, labels, suggestions)
            tokens = token_chips(peaks[feature])
            density = percent(atoms["density"].iloc[feature], 2) if atoms is not None else ""
            st.html(card([who, muted(f"fires on {density}")], label, element("div", tokens)))
            examples = one_feature.examples(here.run, info.name, feature, window=7)
            if examples:
                st.html(strips(examples, examples[0].peak))
            feature_link(here, feature, f"Feature {feature:,}")


def _label_chip(feature: int, labels: Mapping[int, str], suggestions: pd.DataFrame | None) -> Html:
    """The label of a feature, or else what is suggested for it with how well that tells when it fires."""
    if feature in labels:
        return chip(labels[feature], HIGHLIGHT, title="label")
    row = None if suggestions is None else suggestions.iloc[feature]
    if row is None or not row["suggestion"]:
        return Html()
    title = f"a suggestion: precision {percent(row['precision'], 0)}, recall {percent(row['recall'], 0)}; · is a space"
    return chip(f"suggested: {row['suggestion']}", title=title)


def _absent(here: Here, info: EnsembleInfo, nearest: Mapping[str, tuple[int, float]], who: Html) -> None:
    """What comes closest in a member that has no part in the family."""
    st.html(card([who, muted("has none; the closest is")]))
    ways: dict[int, list[str]] = {}
    for way, (feature, score) in nearest.items():
        ways.setdefault(feature, []).append(f"{way} {decimal(score)}")
    peaks = one_feature.peak_tokens(here.run, info.name, ways, count=3)
    for feature, scores in ways.items():
        tokens = token_chips(peaks[feature])
        st.html(card([muted(", ".join(scores))], element("div", tokens)))
        feature_link(here, feature, f"Feature {feature:,}")


def _pairs(here: Here, info: EnsembleInfo, features: Sequence[int], member_of: Mapping[int, int]) -> None:
    scores = data.family_pairs(here.run, info, features)
    if scores is not None:
        text = f"Pairs of {info.member_word}s; ↓ marks what is too low to match."
        st.html(
            section("How alike, pair by pair", text) + family_tables.pair_table(scores, member_of, FAMILY_THRESHOLDS)
        )


def _more(here: Here, info: EnsembleInfo, features: Sequence[int]) -> None:
    more = data.more_of_family(here.run, info.name, features)
    distinct = more.drop_duplicates("feature") if len(more) else more
    if distinct.empty:
        st.html(section("One to many", "No further feature has its best match in this family."))
        return
    count = f"{whole(len(distinct))} further features have" if len(distinct) > 1 else "One further feature has"
    st.html(section("One to many", f"{count} the best match in this family, so several match one."))
    atoms = tables.atoms(here.run, info.name)
    for row in distinct.head(_MORE).to_dict("records"):
        feature, into = int(row["feature"]), int(row["into"])
        token = show_alone(str(atoms["top_token"].iloc[feature])) if atoms is not None else ""
        member = info.place(feature)[0]
        feature_link(
            here,
            feature,
            f"{feature:,} ({info.member_word} {member}) · {plain(token)} · {row['measure']} "
            f"{decimal(row['score'])} with {into:,}",
        )
