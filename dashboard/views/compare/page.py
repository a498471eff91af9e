"""Compare members: how alike they are, families of features, one text through all, lone features, what stages add."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard.shared.address import Here, here
from dashboard.shared.common import chart, choice, clicked_row, missing, open_feature, trained_ensemble
from dashboard.shared.feature_figures import DENSITY, PEAK
from dashboard.shared.look.cards import notice
from dashboard.shared.reads import tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.compare import aligned_text, charts, data, family_browser
from dashboard.views.compare.family_tables import agreement_tiles
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.shared.names_in_tables import FAMILY_THRESHOLDS
from sae_core.foundation.colours import member_color
from sae_core.foundation.numbers import percent, whole
from sae_core.report.html import Cell, Column
from sae_core.report.pieces.cards import heading, section, table
from sae_core.report.pieces.tokens import show_alone

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
    summary, atoms = tables.match_summary(here.run, info.name), tables.atoms(here.run, info.name)
    matches = tables.matches(here.run, info.name)
    if summary is None or atoms is None or matches is None:
        missing(here, "index", "The members are not matched yet")
        return
    _alike(here, info, summary)
    if info.staged:
        _stages(here, info, atoms, matches)
        _energy(here, info, atoms)
    family_browser.browse(here, info)
    aligned_text.browse(here, info)
    _lone(here, info, atoms)


def _alike(here: Here, info: EnsembleInfo, cosines: dict[str, Any]) -> None:
    firing = data.family_summary(here.run, info.name)
    with st.container(horizontal=True, gap="medium"):
        by = choice("by", "Compared by", list(charts.BY) if firing else ["cosine"], charts.BY.__getitem__)
        measure = choice("measure", "Measure", list(charts.MEASURES), charts.MEASURES.__getitem__)
    pairs, chance = charts.pairs_by(by, cosines, firing)
    null = chance[measure]
    left, right = st.columns([1.15, 1], gap="large")
    with left:
        chart(
            charts.heat_map(charts.matrix(pairs, measure, info.members), measure, word=info.member_word, by=by),
            f"How alike the {info.member_word}s are",
            charts.explanation(measure, by, FAMILY_THRESHOLDS[by]),
            key=f"heat-{by}-{measure}",
        )
    with right:
        chart(
            charts.against_null(pairs, measure, null, word=info.member_word, by=by),
            "Beside chance",
            charts.about_chance(by, null, word=info.member_word),
            key=f"null-{by}-{measure}",
        )
    if firing is not None:
        st.html(
            section(
                "Do the three ways of matching agree?",
                f"How often they name the same best match in another {info.member_word}: directions can agree where "
                "firing does not, and the other way round.",
            )
        )
        st.html(agreement_tiles(firing["agreement"]))
        _how_measured(info, firing)


def _how_measured(info: EnsembleInfo, firing: dict[str, Any]) -> None:
    pairs = firing["pairs"]
    sample = "all" if pairs["stride"] == 1 else f"one in {pairs['stride']}, {whole(pairs['tokens'])} in all,"
    st.caption(
        f"Matches by activations look at {sample} of the indexed tokens; a feature's top contexts are the "
        f"{firing['top_contexts']} stretches of {firing['context_tokens']} tokens in which it fires most strongly. "
        f"Chance: the {info.member_word}s shifted against each other along the text."
    )


def _stages(here: Here, info: EnsembleInfo, atoms: pd.DataFrame, matches: pd.DataFrame) -> None:
    reconstruction = tables.evaluation(here.run, RECONSTRUCTION.name) or {"ensembles": {}}
    ratios = reconstruction["ensembles"].get(info.name, {}).get("residual_energy")
    left, right = st.columns([1.15, 1], gap="large")
    with left:
        if ratios:
            chart(
                charts.residual_energy(ratios),
                "What each stage leaves of held-out text",
                "Each stage trains on what the ones before left; the bars are the energy of held-out activations still "
                "unexplained after it.",
                key="residual",
            )
        else:
            st.html(section("What each stage leaves of held-out text"))
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
            for row in charts.stages(atoms, matches, info.members).to_dict("records")
        ]
        st.html(table(columns, rows))


def _energy(here: Here, info: EnsembleInfo, atoms: pd.DataFrame) -> None:
    """What each stage removes, and which features do it."""
    st.html(
        section(
            "Which features remove the energy of the indexed text",
            "Of the energy ‖r‖² − ‖r′‖² that a stage removes, a feature removes c·⟨r + r′, w⟩: these shares, with the "
            "bias's, add up exactly. Alone: how much the energy would drop if nothing else were subtracted.",
        )
    )
    measured = data.stage_energy(here.run, info.name)
    if measured is None:
        missing(here, "index", "The energy that features remove is not measured yet")
        return
    energy, summary = measured
    st.html(charts.stage_table(summary["stages"]))
    st.caption(
        f"Measured on {whole(summary['sample'])} of the {whole(summary['tokens'])} indexed tokens, "
        "which the SAEs were trained on; what stages leave of held-out text stands above."
    )
    names = {"all": "all stages", **{str(stage): f"stage {stage}" for stage in range(info.members)}}
    stage = choice("stage", "Stage", list(names), names.__getitem__)
    rows = charts.removers(energy, atoms, None if stage == "all" else int(stage)).head(MAX_LONE)
    share = st.column_config.NumberColumn
    row = clicked_row(
        pd.DataFrame(
            {
                "Feature": rows["feature"],
                "Stage": rows["member"],
                "Top token": [show_alone(str(token)) for token in rows["top_token"]],
                "Removes": 100 * rows["removed"],
                "Alone": 100 * rows["alone"],
                "Of its stage": 100 * rows["of_stage"],
                "Density": DENSITY.values(rows),
            }
        ),
        {
            "Feature": share(format="%d"),
            "Removes": share(format="%.3f %%", help="Share of the energy of all activations that it removes"),
            "Alone": share(format="%.3f %%", help="The drop if it alone were subtracted from what the stage finds"),
            "Of its stage": share(format="%.2f %%", help="Its share of what all features of its stage remove"),
            "Density": DENSITY.column(here.words),
        },
        key=f"energy-{here.run.path.name}-{info.name}-{stage}",
        alt="Features by the energy that they remove; click a row to open one",
        height=300,
    )
    if row is not None:
        open_feature(here, int(rows["feature"].iloc[row]))


def _lone(here: Here, info: EnsembleInfo, atoms: pd.DataFrame) -> None:
    scores = data.best_scores(here.run, info.name)
    if scores is None:
        return
    st.html(
        section(
            f"Only in one {info.member_word}",
            f"Living features that no feature of another {info.member_word} matches; the least similar come first. "
            "Click a row to open the feature.",
        )
    )
    known = [by for by in charts.BY if by in scores]
    names = {"all": "in any way", **{by: f"by {charts.BY[by].lower()}" for by in known}}
    way = choice("alone", "No match", list(names) if len(known) > 1 else known, names.__getitem__)
    ways = known if way == "all" else [way]
    lone = charts.lone_features(atoms, scores, FAMILY_THRESHOLDS, ways)
    counts = lone.groupby("member").size()
    per_member = ", ".join(f"{info.member_word} {j}: {whole(counts.get(j, 0))}" for j in range(info.members))
    least = ", ".join(f"{by} {FAMILY_THRESHOLDS[by]:.2g}" for by in ways)
    st.caption(f"{per_member}. A match has at least: {least}.")
    if lone.empty:
        st.html(notice("There are none", f"Every living feature is found in another {info.member_word}, too."))
        return
    shown = lone.head(MAX_LONE)
    row = clicked_row(
        pd.DataFrame(
            {
                "Feature": shown["feature"],
                info.member_word.capitalize(): shown["member"],
                "Top token": [show_alone(str(token)) for token in shown["top_token"]],
                **{f"Best {by}": shown[f"best_{by}"] for by in known},
                "Density": DENSITY.values(shown),
                "Peak": shown["peak"],
            }
        ),
        {
            "Feature": st.column_config.NumberColumn(format="%d"),
            **{
                f"Best {by}": st.column_config.NumberColumn(
                    format="%.2f", help=f"Largest with a feature of another {info.member_word}: {charts.MEANINGS[by]}"
                )
                for by in known
            },
            "Density": DENSITY.column(here.words),
            "Peak": PEAK.column(here.words),
        },
        key=f"lone-{here.run.path.name}-{info.name}-{way}",
        alt="Features that only one member has; click a row to open one",
    )
    if row is not None:
        open_feature(here, int(shown["feature"].iloc[row]))


show(here())
