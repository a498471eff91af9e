"""The other side of a map: which ensembles can stand beside this one, and making the joint map of both."""

from __future__ import annotations

import shlex

import streamlit as st

from dashboard.shared.address import Here
from dashboard.shared.look.cards import notice
from dashboard.shared.reads import opening
from dashboard.shared.reads.opening import EnsembleInfo
from dashboard.views.map import data
from dashboard.views.map.look import Side
from sae_core.analysis.atoms import joint_map
from sae_core.foundation.errors import UserError
from sae_core.foundation.progress import Tick

MADE_HERE = 40_000
"""Atoms of a joint map that the page makes itself; more take minutes, for which there is the command."""


def other_side(here: Here, info: EnsembleInfo) -> dict[str, Side]:
    """The indexed ensembles whose atoms can be compared with this one's, by what people read for them."""
    found: dict[str, Side] = {}
    own = joint_map.Side(here.run, info.name)
    for name, path in here.runs.items():
        try:
            run = opening.open_run(path)
            infos = opening.ensembles(run)
        except UserError:
            continue  # a damaged run beside this one is no fault of this page
        for each in infos.values():
            try:
                joint_map.require_comparable(own, joint_map.Side(run, each.name))
            except UserError:
                continue
            if run.ensemble(each.name).atoms.exists():
                same = run.path.resolve() == here.run.path.resolve()
                found[each.title if same else f"{name} · {each.title}"] = (run, each)
    return found


def joint_sides(left: Side, right: Side) -> data.MapPoints | None:
    """The atoms of both on their joint map; None, and a button or the command, where it is not made yet."""
    sides = [joint_map.Side(run, info.name) for run, info in (left, right)]
    path = joint_map.joint_map_path(*sides)
    if path.exists():
        return data.joint_points([left, right], path)
    _offer(sides)
    return None


def _offer(sides: list[joint_map.Side]) -> None:
    left, right = sides
    atoms = left.features + right.features
    text = (
        f"A joint map is one UMAP of the {atoms:,} atoms of both ensembles, so that the same place is the same "
        "direction on both sides. It is made once and kept in the run folder."
    )
    words = ["sae-ensemble", "map", str(left.run.path), "--ensemble", left.ensemble, "--other", right.ensemble]
    if right.run.path.resolve() != left.run.path.resolve():
        words += ["--other-run", str(right.run.path)]
    if atoms > MADE_HERE:
        st.html(
            notice(
                "These two have no joint map yet",
                f"{text} With so many atoms it takes minutes. Run:",
                shlex.join(words),
            )
        )
        return
    st.html(notice("These two have no joint map yet", f"{text} Make it here, or run:", shlex.join(words)))
    if st.button("Make the joint map", type="primary", icon=":material/scatter_plot:"):
        _make(sides)


def _make(sides: list[joint_map.Side]) -> None:
    bar = st.progress(0.0, "Comparing atoms …")

    def tell(tick: Tick) -> None:
        share = min(1.0, tick.done / tick.total) if tick.total else 0.0
        # The layout follows the neighbours and does not say how far it is.
        bar.progress(share, f"{tick.stage.capitalize()} …" if share < 1 else "Laying out …")

    try:
        joint_map.make_joint_map(*sides, progress=tell)
    except UserError as error:
        st.error(str(error))
        return
    st.rerun()
