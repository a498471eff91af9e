"""Compare members: how alike they are, families of features, lone features, what stages add."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.address import Here, here
from dashboard.common import chart, feature_link, missing, open_feature, picked_row, trained_ensemble
from dashboard.parts import compare
from dashboard.parts.cards import Cell, Column, heading, member_chip, notice, section, table
from dashboard.parts.colors import member_color
from dashboard.parts.numbers import decimal, percent, whole
from dashboard.parts.tokens import show_alone, token_chips

FAMILIES_A_PAGE = 6
MAX_LONE = 2000


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    text = f"{info.title}: {info.members} {info.member_word}s of {info.widths[0]:,} features."
    st.html(heading("Compare members", text))
    if info.members < 2:
        several = [name for name, other in here.ensembles.items() if other.members > 1]
        hint = f"Choose {' or '.join(several)} in the sidebar." if several else "This run has no ensemble of several."
        st.html(notice(f"{info.title} has one member, so there is nothing to compare", hint))
        return
    summary, atoms = queries.match_summary(here.run, info.name), queries.atoms(here.run, info.name)
    matches = queries.matches(here.run, info.name)
    if summary is None or atoms is None or matches is None:
        missing(here, "index", "The members are not matched yet")
        return
    _alike(info, summary)
    if info.staged:
        _stages(here, info, atoms, matches)
    _families(here, info, atoms)
    _lone(here, info, atoms)


def _alike(info: queries.EnsembleInfo, summary: dict[str, Any]) -> None:
    measure = st.segmented_control(
        "Measure",
        list(compare.MEASURES),
        default="mean_matched_cosine",
        format_func=compare.MEASURES.__getitem__,
        key="measure",
        label_visibility="collapsed",
    )
    measure = measure or "mean_matched_cosine"
    values = compare.matrix(summary["pairs"], measure, info.members)
    null = (summary["null"] or {}).get(compare.NULLS.get(measure, ""))
    left, right = st.columns([1.15, 1], gap="large")
    with left:
        chart(
            compare.heat_map(values, measure, word=info.member_word),
            f"How alike the {info.member_word}s are",
            compare.EXPLANATIONS[measure],
            key=f"heat-{measure}",
        )
    with right:
        chart(
            compare.against_null(summary["pairs"], measure, null, word=info.member_word),
            "Beside chance",
            "Bars are pairs; the dashed line is what random dictionaries of the same size reach."
            if null is not None
            else "Bars are pairs; random dictionaries of this size share next to nothing at this threshold.",
            key=f"null-{measure}",
        )


def _stages(here: Here, info: queries.EnsembleInfo, atoms: pd.DataFrame, matches: pd.DataFrame) -> None:
    reconstruction = queries.evaluation(here.run, "reconstruction") or {"ensembles": {}}
    ratios = reconstruction["ensembles"].get(info.name, {}).get("residual_energy")
    left, right = st.columns([1.15, 1], gap="large")
    with left:
        if ratios:
            chart(
                compare.residual_energy(ratios),
                "What each stage leaves",
                "Each stage trains on what the ones before left; the bars are the energy still unexplained after it.",
                key="residual",
            )
        else:
            st.html(section("What each stage leaves"))
            missing(here, "evaluate", "The residual energy is not measured yet")
    with right:
        st.html(
            section("What each stage adds", "New: no feature of an earlier stage has a cosine of 0.7 or more with it.")
        )
        columns = (
            Column("Stage"),
            Column("Living features", "Features that fire on at least one indexed token"),
            Column("New", "Share of the living features that are unlike every feature of an earlier stage"),
            Column("Mean density", "Mean share of tokens on which its living features fire"),
        )
        rows = [
            [
                Cell(f"stage {row['member']:.0f}", color=member_color(int(row["member"]))),
                Cell(whole(row["alive"])),
                Cell(percent(row["new"] / row["alive"] if row["alive"] else None, 0)),
                Cell(percent(row["density"], 2)),
            ]
            for row in compare.stages(atoms, matches, info.members).to_dict("records")
        ]
        st.html(table(columns, rows))


def _families(here: Here, info: queries.EnsembleInfo, atoms: pd.DataFrame) -> None:
    sizes = compare.family_sizes(atoms)
    st.html(
        section(
            "Families of matched features",
            "Features that are each other's one-to-one match with a cosine of at least 0.7, side by side with the "
            "tokens on which they fire most; the most frequent families come first.",
        )
    )
    if not sizes:
        st.html(notice("There are no families", f"No two {info.member_word}s share a feature at a cosine of 0.7."))
        return
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        size = st.segmented_control(
            "Family size",
            list(sizes),
            default=next(iter(sizes)),
            format_func=lambda size: f"in {size} {info.member_word}s ({whole(sizes[size])})",
            key="family-size",
            label_visibility="collapsed",
        )
    found = compare.families(atoms, size=size)
    pages = max(1, -(-len(found) // FAMILIES_A_PAGE))
    with right:
        page = st.number_input(f"Page (of {pages})", 1, pages, 1, key=f"family-page-{info.name}-{size}")
    for family in found[(page - 1) * FAMILIES_A_PAGE : page * FAMILIES_A_PAGE]:
        _family(here, info, family)


def _family(here: Here, info: queries.EnsembleInfo, family: compare.Family) -> None:
    with st.container(border=True):
        st.html(
            f'<div class="sae"><span class="muted">mean density {percent(family.density, 2)} · '
            f"weakest best match {decimal(family.cosine)}</span></div>"
        )
        columns = st.columns(min(info.members, 4))
        for number, (member, feature) in enumerate(sorted(family.features.items())):
            with columns[number % len(columns)]:
                tokens = token_chips(queries.peak_tokens(here.run, info.name, feature, count=5))
                who = member_chip(member, stage=info.staged)
                st.html(f'<div class="sae card"><div class="row">{who}</div>{tokens}</div>')
                feature_link(here, feature, f"Feature {feature:,}")


def _lone(here: Here, info: queries.EnsembleInfo, atoms: pd.DataFrame) -> None:
    lone = compare.lone_features(atoms)
    counts = lone.groupby("member").size()
    per_member = ", ".join(
        f"{info.member_word} {member}: {whole(counts.get(member, 0))}" for member in range(info.members)
    )
    st.html(
        section(
            f"Only in one {info.member_word}",
            f"Living features whose best match anywhere else has a cosine below 0.7 ({per_member}); the least similar "
            "come first. Click a row to open the feature.",
        )
    )
    if lone.empty:
        st.html(notice("There are none", f"Every living feature is found in another {info.member_word}, too."))
        return
    shown = lone.head(MAX_LONE)
    key = f"lone-{here.run.path.name}-{info.name}"
    st.dataframe(
        pd.DataFrame(
            {
                "Feature": shown["feature"],
                info.member_word.capitalize(): shown["member"],
                "Top token": [show_alone(str(token)) for token in shown["top_token"]],
                "Best cosine": shown["best_cosine"],
                "Density": 100 * shown["density"],
                "Peak": shown["peak"],
            }
        ),
        key=key,
        hide_index=True,
        height=min(380, 37 + 35 * len(shown)),
        on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "Feature": st.column_config.NumberColumn(format="%d"),
            "Best cosine": st.column_config.NumberColumn(format="%.2f"),
            "Density": st.column_config.NumberColumn(format="%.3g %%"),
            "Peak": st.column_config.NumberColumn(format="%.2f"),
        },
        alt="Features that only one member has; click a row to open one",
    )
    row = picked_row(key)
    if row is not None and row < len(shown):
        open_feature(here, int(shown["feature"].iloc[row]))


show(here())
