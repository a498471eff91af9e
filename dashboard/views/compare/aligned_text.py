"""One text through all members of an ensemble, side by side; for boosting, what each stage removes of its energy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.shared.address import Here
from dashboard.shared.common import feature_link
from dashboard.shared.faults import fragment
from dashboard.shared.look.cards import notice, plain
from dashboard.shared.reads import tables, typed_text
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.compare import data, text_strips
from dashboard.views.compare.charts import BY, stage_table
from dashboard.views.compare.family_browser import FAMILY
from dashboard.views.compare.text_strips import Mark
from sae_core.foundation.colours import member_color
from sae_core.foundation.errors import UserError
from sae_core.foundation.numbers import percent, whole
from sae_core.report.pieces.cards import section
from sae_core.report.pieces.tokens import legend, show_alone

if TYPE_CHECKING:  # it comes with torch
    from sae_core.analysis.live_text import LiveText

MAX_CHARS = 2000
_TOP = 4
STRONGEST, ONE = "strongest", "family"


@fragment
def browse(here: Here, info: EnsembleInfo) -> None:
    """The section on a text of one's own; it is read by the run's language model."""
    text = f"Type a text: the run's language model reads it, and each {info.member_word} shows its features on it."
    st.html(section(f"The same text through all {info.member_word}s", text))
    with st.form("aligned-form", border=False):
        typed = st.text_area(
            "Text",
            key="aligned-text",
            max_chars=MAX_CHARS,
            height=80,
            label_visibility="collapsed",
            placeholder="Returns the indices of the maximum values along an axis.",
        )
        st.form_submit_button("Read it", icon=":material/play_arrow:")
    typed = (typed or "").strip()
    if not typed:
        return
    try:
        live = typed_text.live_text(here.run, info.name, typed)
    except UserError as error:
        st.html(notice("This text cannot be read", str(error)))
        return
    if live.cut:
        st.caption(f"The first {whole(len(live))} tokens are shown.")
    _strips(here, info, live)
    if info.staged:
        _energy(here, info, typed)


def _strips(here: Here, info: EnsembleInfo, live: LiveText) -> None:
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        mode = st.segmented_control(
            "Colour",
            [STRONGEST, ONE],
            default=STRONGEST,
            format_func={STRONGEST: "The strongest feature", ONE: "One family"}.__getitem__,
            key="aligned-mode",
            required=True,
            help="The strongest feature of each token, in the colour of its family; or the features of one family.",
        )
        way = st.segmented_control(
            "Families",
            list(BY),
            default="cosine",
            format_func=BY.__getitem__,
            key="aligned-way",
            required=True,
            help="Which way of matching makes a family",
        )
    family_of = data.family_of(here.run, info.name, way or "cosine")
    atoms = tables.atoms(here.run, info.name)
    if mode == ONE:
        family = _pick(here, info, live, family_of)
        if family is None:
            return
        _one_family(here, info, live, family, atoms)
        return
    peaks, describe = _known(live.features, atoms)
    strips = [
        text_strips.strongest_marks(*live.member(member), len(live), peaks, family_of) for member in range(info.members)
    ]
    colors = text_strips.family_colors(strips)
    families = data.families(here.run, info.name)
    tokens = {family: families["tokens"].iloc[family] for family in colors} if families is not None else {}
    # Stages share next to no family: there the colour says whose feature it is.
    lone = [member_color(stage) for stage in range(info.members)] if info.staged else []
    legend_html = text_strips.family_legend(colors, tokens, "" if lone else text_strips.LONE_COLOR)
    strips_html = text_strips.aligned(live.texts, _names(info), strips, colors=colors, describe=describe, lone=lone)
    st.html(legend_html + strips_html)
    _links(here, info, strips, atoms)


def _names(info: EnsembleInfo) -> list[str]:
    return [f"{info.member_word} {member}" for member in range(info.members)]


def _known(features_E: np.ndarray, atoms: pd.DataFrame | None) -> tuple[dict[int, float], dict[int, str]]:
    """(largest activation, top token in words) of the features that fire on a text."""
    if atoms is None:
        return {}, {}
    rows = atoms.iloc[np.unique(features_E)]
    peaks = dict(zip(rows["feature"].tolist(), rows["peak"].astype(float).tolist(), strict=True))
    texts = [f"top token {show_alone(str(token))}" for token in rows["top_token"]]
    return peaks, dict(zip(rows["feature"].tolist(), texts, strict=True))


def _pick(here: Here, info: EnsembleInfo, live: LiveText, family_of: dict[int, int]) -> int | None:
    """The family to colour by: of those that fire on the text, by default the one whose card is shown."""
    energy: dict[int, float] = {}
    for feature, value in zip(live.features.tolist(), live.values.tolist(), strict=True):
        if feature in family_of:
            energy[family_of[feature]] = energy.get(family_of[feature], 0.0) + value
    if not energy:
        st.html(notice("No family fires on this text", "Type another one, or choose another way of matching."))
        return None
    options = sorted(energy, key=lambda family: -energy[family])
    asked = st.query_params.get(FAMILY, "")
    place = next((number for number, family in enumerate(options) if str(family) == asked), 0)
    families = data.families(here.run, info.name)
    tokens = families["tokens"].tolist() if families is not None else []
    picked: int | None = st.selectbox(
        "Family",
        options,
        index=place,
        key=f"aligned-family-{info.name}-{asked}",
        format_func=lambda family: f"family {family}: " + "  ".join(map(show_alone, tokens[family][:4])),
        help="Families that fire on this text, the strongest first",
    )
    return picked


def _one_family(here: Here, info: EnsembleInfo, live: LiveText, family: int, atoms: pd.DataFrame | None) -> None:
    families = data.families(here.run, info.name)
    features = () if families is None else families["features"].iloc[family]
    peaks, describe = _known(np.asarray(features), atoms)
    by_member = {info.place(feature)[0]: feature for feature in features}
    strips: list[list[Mark | None]] = []
    for member in range(info.members):
        feature = by_member.get(member)
        values = np.zeros(len(live)) if feature is None else live.values_of(feature)
        peak = peaks.get(feature, 0.0) if feature is not None else 0.0
        strips.append(
            [Mark(feature, float(v), peak, family) if feature is not None and v > 0 else None for v in values]
        )
    names = [f"{name}{'' if member in by_member else ' (none)'}" for member, name in enumerate(_names(info))]
    largest = max(peaks.values(), default=0.0)
    st.html(legend(largest) + text_strips.aligned(live.texts, names, strips, colors=None, describe=describe))


def _links(here: Here, info: EnsembleInfo, strips: Sequence[Sequence[Mark | None]], atoms: pd.DataFrame | None) -> None:
    """The features that are strongest on most tokens of each member, as links."""
    columns = st.columns(min(info.members, 4), gap="small")
    for member, strip in enumerate(strips):
        counts = pd.Series([mark.feature for mark in strip if mark is not None], dtype="int64").value_counts()
        with columns[member % len(columns)]:
            st.caption(f"strongest most often in {_names(info)[member]}")
            for feature, count in counts.head(_TOP).items():
                number = int(str(feature))
                token = show_alone(str(atoms["top_token"].iloc[number])) if atoms is not None else ""
                feature_link(here, number, f"{number:,} · {plain(token)} · {count} tokens")


def _energy(here: Here, info: EnsembleInfo, typed: str) -> None:
    """What each stage removes of the energy of the text on screen."""
    found = data.energy_of_text(here.run, info.name, typed)
    energy = float(found[0][0].before_B.sum()) or 1.0
    shares = [
        {
            "before": float(stage.before_B.sum()) / energy,
            "after": float(stage.after_B.sum()) / energy,
            "bias": float(stage.bias_B.sum()) / energy,
        }
        for stage, _ in found
    ]
    st.html(
        section(
            "What each stage removes of this text's energy",
            "Energy is the sum of ‖a‖² over the tokens. A stage's share is split exactly among its bias and features: "
            "a feature removes c·⟨r + r′, w⟩, where r is the residual before the stage and r′ after it.",
        )
        + stage_table(shares)
    )
    atoms = tables.atoms(here.run, info.name)
    columns = st.columns(min(info.members, 4), gap="small")
    for number, (_, table) in enumerate(found):
        with columns[number % len(columns)]:
            st.caption(f"stage {number} does most of it with")
            for row in table.head(_TOP).to_dict("records"):
                feature = int(row["feature"])
                token = show_alone(str(atoms["top_token"].iloc[feature])) if atoms is not None else ""
                feature_link(here, feature, f"{feature:,} · {plain(token)} · {percent(row['removed'] / energy, 2)}")
