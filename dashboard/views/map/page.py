"""Atom map: all members' atoms in the plane, by similarity; clicked, encircled, searched, and two side by side."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from dashboard.components import map_canvas
from dashboard.shared import address
from dashboard.shared.address import FEATURE, Here, here
from dashboard.shared.common import choice, feature_link, missing, trained_ensemble
from dashboard.shared.faults import fragment
from dashboard.shared.feature_figures import DENSITY, PEAK
from dashboard.shared.look.cards import chip_row, notice
from dashboard.shared.reads import finding, one_feature, tables
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.map import data, drawing
from dashboard.views.map.listing import listing
from dashboard.views.map.look import Look, joint_look, member_look, whole_look
from dashboard.views.map.side import joint_sides, other_side
from sae_core.foundation.colours import HIGHLIGHT
from sae_core.foundation.numbers import decimal, one_in
from sae_core.foundation.run import Run
from sae_core.report.pieces.cards import chip, heading, member_chip, section
from sae_core.report.pieces.tokens import show_alone, strips

SHOWN = {"all": "All together", "members": "Two {word}s", "joint": "Two ensembles"}
POINT = "point"
"""In the address bar of a joint map, since two ensembles share its numbers."""


def show(here: Here) -> None:
    """The whole page."""
    info = trained_ensemble(here)
    st.html(
        heading(
            "Atom map",
            f"Every point is a feature of {info.title}; those with similar atoms (cosine) lie close together (UMAP). "
            "Click one, draw around some, or search.",
        )
    )
    points = data.map_points(here.run, info)
    if points is None:
        missing(here, "index", "There is no map yet")
        return
    look = _look(here, info, points)
    if look is None:
        return
    with st.container(key="map-points"):
        map_canvas.send_points(look.points.data)
    _explore(here, look)


def _look(here: Here, info: EnsembleInfo, points: data.MapPoints) -> Look | None:
    """What is shown; None if it has to be made first, which has been said."""
    others = other_side(here, info)
    options = ["all"] + (["members"] if info.members > 1 else []) + (["joint"] if others else [])
    if len(options) == 1:
        return whole_look(here.run, info, points)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        shown = choice("show", "Shown", options, lambda name: SHOWN[name].format(word=info.member_word))
        if shown == "members":
            names = [str(member) for member in range(info.members)]
            left = int(choice("left", "Left", names, f"{info.member_word} {{}}".format, menu=True))
            right = int(choice("right", "Right", names, f"{info.member_word} {{}}".format, menu=True, default="1"))
            return member_look(here.run, info, points, left, right)
        if shown == "joint":
            name = choice("other", "The other side", list(others), menu=True)
    if shown == "all":
        return whole_look(here.run, info, points)
    joint = joint_sides((here.run, info), others[name])
    return None if joint is None else joint_look(joint, [(here.run, info), others[name]], ["this", name])


@fragment
def _explore(here: Here, look: Look) -> None:
    """What is drawn anew at a click."""
    color, concept, dead = _controls(look)
    point = _point(look)
    left, right = st.columns([2.1, 1], gap="large") if len(look.panels) == 1 else (st.container(), st.container())
    with left:
        explanation = drawing.EXPLANATIONS[color].format(word=look.word)
        st.html(section(look.title, f"{explanation[0].upper()}{explanation[1:]}. {look.definition}".strip()))
        table = look.points.table
        drawn = {
            "points": look.points.key,
            "parts": [dict(zip(("title", "start", "base", "member"), part, strict=True)) for part in look.parts],
            "panels": [dict(zip(("title", "start", "stop"), panel, strict=True)) for panel in look.panels],
            "color": data.map_colors(look.points, color, look.word, concept),
            "hidden": drawing.hidden_points(table, dead=dead),
            "names": list(look.points.names),
            "feature": -1 if point is None else point,
            "marks": [] if point is None else _marks(look, point),
            "query": st.query_params.get("q", "")[:200],
            "accent": HIGHLIGHT,
        }
        _, listed = map_canvas.show_map(drawn, key=look.key, on_feature=lambda: _clicked(look), count=len(table))
    with right:
        _preview(here, look, point)
    if listed is not None:
        listing(here, look, listed)


def _controls(look: Look) -> tuple[str, tuple[Run, str, str, str] | None, bool]:
    run, info = look.sides[0]
    several = info.members > 1
    options = [name for name in drawing.COLORS if several or name not in ("member", "stability")]
    alone = len(look.sides) == 1
    concepts = data.concept_choices(run) if alone else {}
    detected = finding.concept_names(run, info.name) if alone else []
    options = [name for name in options if {"concept": concepts, "detector": detected}.get(name, True)]
    if len(look.sides) > 1:
        options = ["closest", "side", *(name for name in options if name != "member")]
    concept = None
    names = {**drawing.COLORS, "closest": "Counterpart", "side": "Side"}
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        color = choice("color", "Colour", options, names.__getitem__)
        if color == "concept":
            column, value = concepts[choice("concept", "Concept", list(concepts), menu=True)]
            concept = (run, info.name, column, value)
        elif color == "detector":
            name = choice("detects", "Concept that is detected", detected, _with_task, menu=True)
            task, _, value = name.partition("/")
            concept = (run, info.name, task, value)
        dead = st.toggle("Dead features too", key="map-dead")
    return color, concept, dead


def _with_task(name: str) -> str:
    return name.replace("/", " · ", 1)


def _point(look: Look) -> int | None:
    """The point that the address bar names."""
    name = FEATURE if len(look.sides) == 1 else POINT
    return address.requested_feature(st.query_params.get(name), len(look.points.table))


def _clicked(look: Look) -> None:
    state = st.session_state.get(look.key) or {}
    point = map_canvas.clicked(state.get("feature"), len(look.points.table))
    if point is not None:
        address.write({FEATURE if len(look.sides) == 1 else POINT: str(point)})


def _marks(look: Look, point: int) -> list[int]:
    """The most similar feature on the other side, which is marked there."""
    return [other for other, _ in [_counterpart(look, point)] if other is not None]


def _counterpart(look: Look, point: int) -> tuple[int | None, float]:
    """(the most similar atom on the other side, its cosine) of a point, if two sides are shown."""
    if len(look.panels) < 2:
        return None, float("nan")
    row = look.points.table.iloc[point]
    if len(look.sides) > 1:
        start = 0 if row["side"] == 1 else look.panels[1][1]
        return start + int(row["closest"]), float(row["cosine"])
    run, info = look.sides[0]
    matches = tables.matches(run, info.name)
    if matches is None:
        return None, float("nan")
    own = int(row["member"])
    others = [member for member in look.members if member != own]
    found = matches[(matches["feature"] == point) & matches["other_member"].isin(others)]
    if found.empty or own not in look.members:
        return None, float("nan")
    best = found.iloc[0]
    return int(best["best_feature"]), float(best["best_cosine"])


def _preview(here: Here, look: Look, point: int | None) -> None:
    if point is None:
        st.html(section("The feature") + notice("No point is chosen", "Click one to see what its feature responds to."))
        return
    other, cosine = _counterpart(look, point)
    if other is None:
        _feature(here, look, point, 6)
        return
    st.caption(f"The feature that was clicked, and the most similar one of the other side: cosine {decimal(cosine)}.")
    for place, each in zip(st.columns(2, gap="large"), sorted((point, other)), strict=True):
        with place:
            _feature(here, look, each, 4)


def _feature(here: Here, look: Look, point: int, count: int) -> None:
    """What a feature responds to, in short."""
    run, info, feature = look.place(point)
    row = look.points.table.iloc[point]
    chips = [
        member_chip(int(row["member"]), stage=info.staged),
        chip(f"peak {PEAK.text(row)}", title=PEAK.definition),
        chip(one_in(row["density"], here.words.rows), title=DENSITY.explained(here.words)),
    ]
    if row["label"]:
        chips.append(chip(str(row["label"]), HIGHLIGHT, title="label"))
    if row.get("suggestion"):
        chips.append(
            chip(f"suggested: {row['suggestion']}", title=f"Made from the {here.words.rows} on which it fires")
        )
    st.html(section(f"Feature {feature:,}") + chip_row(*chips))
    there = replace(here, run=run, ensemble=info)
    feature_link(there, feature, f"Open feature {feature:,}")
    view = one_feature.feature_view(run, info.name, feature, count=count)
    if view is not None and view.top:
        st.html(strips(view.top, view.peak))
    elif row["top_token"]:
        st.html(section("", f"Top {here.words.told_by} {show_alone(str(row['top_token']))}"))


show(here())
