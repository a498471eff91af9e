"""The bench as people see it: outcomes above, the list to tick below, and the texts behind a feature.

All of it is one fragment: a tick runs nothing else of the page. What is ticked lies in the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.components.tick_list import Row, tick_list
from dashboard.shared.address import Here
from dashboard.shared.faults import callback, fragment
from dashboard.shared.look.colors import method_color
from dashboard.views.spurious import data
from dashboard.views.spurious.bench import Bench, Ticked, rows
from dashboard.views.spurious.keeping import keeping
from dashboard.views.spurious.outcomes import Line, outcome_table, seeds_table, text_cards
from sae_core.analysis.shared.names_in_tables import BIASED, MEASURED, ORACLE
from sae_core.analysis.shared.seeds import mean_interval
from sae_core.foundation.colours import HIGHLIGHT, NEUTRAL
from sae_core.foundation.methods import title_of
from sae_core.report.pieces.cards import section

LISTED = (30, 60, 120)
"""How many features of the ranking are listed."""
SUGGESTED = 10
"""Features that a click on "Tick the top" takes at first."""


def workbench(here: Here, facts: Mapping[str, Any], method: str, seed: int) -> None:
    """The whole bench.

    Args:
        here: What the page looks at.
        facts: The task, as evaluation/spurious.json has it.
        method: The ensemble whose features are ablated.
        seed: Whose texts.
    """
    task = str(facts["task"])
    ready = data.bench(here.run, task, method, seed)
    key = f"ablate|{here.run.path.name}|{task}|{method}"
    ticked: Ticked = st.session_state.setdefault(key, Ticked())
    ticked.publish()  # the page is drawn anew, and a list that is made anew knows no ticks
    bench = Bench(here, facts, method, seed, ready, ticked, key)
    st.html(
        section(
            f"Features of {title_of(method)} that the probe leans on",
            "Ranked by how much of the lean goes through them. Tick those that mean the attribute; a bar in orange "
            "feeds the correlation, one in blue works against it.",
        )
    )
    count = st.session_state.get("ablate-listed", LISTED[0])
    shown = list(dict.fromkeys([*map(int, ready.order[:count]), *ticked.preset]))
    _fragment(bench, rows(bench, shown))


@fragment
def _fragment(bench: Bench, listed: list[Row]) -> None:
    if not bench.ticked.features <= {row.feature for row in listed}:
        st.rerun()  # something that is not listed was ticked: it has to be
    _outcome(bench)
    _actions(bench)
    list_key = f"{bench.key}|list|{bench.seed}"
    tick_list(
        listed,
        key=list_key,
        version=bench.ticked.version,
        preset=bench.ticked.preset,
        on_tick=lambda: _on_tick(bench.ticked, list_key, {row.feature for row in listed}),
        on_look=lambda: _on_look(bench.ticked, list_key),
    )
    _texts(bench, listed)


def _on_tick(ticked: Ticked, key: str, listed: set[int]) -> None:
    # What a browser sends is believed only as far as it is in the list.
    ticked.features = listed & {int(feature) for feature in st.session_state[key].get("ticked") or []}


def _on_look(ticked: Ticked, key: str) -> None:
    looked = st.session_state[key].get("look")
    if looked is not None:
        ticked.looked = int(looked)


def _outcome(bench: Bench) -> None:
    work, picked = bench.ready.work, sorted(bench.ticked.features)
    before, best = bench.ready.before, bench.ready.best
    lines = [Line("Untouched", 0, before, 0.0)]
    found = work.ablate(picked)
    lines.append(Line("Your choice", len(picked), found, work.scr(found), HIGHLIGHT))
    count = len(picked) or SUGGESTED
    others = {f"Automatic, top {count}": bench.ready.order[:count]}
    if bench.known is not None:
        others[f"Known tokens, top {count}"] = bench.known[:count]
    for name, order in others.items():
        outcome = work.ablate(order)
        lines.append(Line(name, len(order), outcome, work.scr(outcome), method_color(bench.method)))
    lines.append(Line("Oracle", 0, best, 1.0))
    st.html(outcome_table(bench.names, lines, len(work.texts.test)))
    if bench.ticked.checked and bench.ticked.checked[0] == frozenset(picked):
        st.html(_over_seeds(bench, bench.ticked.checked[1]))


def _over_seeds(bench: Bench, figures: Mapping[str, Any]) -> str:
    listed = [("Your choice", figures, HIGHLIGHT)]
    probes = {BIASED: "Untouched", ORACLE: "Oracle"}
    listed += [(probes[row["method"]], row, NEUTRAL) for row in bench.facts["figures"] if row["method"] in probes]
    return seeds_table(listed)


def _actions(bench: Bench) -> None:
    ticked, key = bench.ticked, bench.key
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        most = max(1, len(bench.ready.order))
        count = st.number_input(
            "Number", 1, most, min(SUGGESTED, most), key=f"{key}|count", label_visibility="collapsed", width=120
        )
        top = [int(feature) for feature in bench.ready.order[: int(count)]]
        st.button("Tick the top", key=f"{key}|top", on_click=ticked.put, args=(top,), help="By the ranking alone.")
        if bench.known is not None:
            known = [int(feature) for feature in bench.known[: int(count)]]
            why = "Those that fire mainly on the tokens known to say the attribute: what a perfect person picks."
            st.button("Tick the known", key=f"{key}|known", on_click=ticked.put, args=(known,), help=why)
        st.button("Clear", key=f"{key}|clear", on_click=ticked.put, args=([],), disabled=not ticked.features)
        st.button(
            f"Check on all {len(bench.facts['seeds'])} seeds",
            key=f"{key}|check",
            on_click=_check,
            args=(bench,),
            disabled=not ticked.features or len(bench.facts["seeds"]) < 2,
            help="Who picks features by their effect on the test texts fits them; other draws of the texts tell more.",
        )
        keep = st.popover("Save, load, export", icon=":material/save:", key=f"{key}|keep", on_change="rerun")
        if keep.open:  # what is in it costs as much as all the rest
            with keep:
                keeping(bench)
        _how_many_listed()


def _how_many_listed() -> None:
    listed = st.selectbox(
        "Listed",
        LISTED,
        format_func=lambda count: f"top {count} listed",
        key="ablate-listed",
        label_visibility="collapsed",
        width=150,
    )
    if listed != st.session_state.get("ablate-was-listed", LISTED[0]):
        st.session_state["ablate-was-listed"] = listed
        st.rerun()  # the rows are made outside the fragment


@callback
def _check(bench: Bench) -> None:
    """The choice on the texts of every seed."""
    picked = sorted(bench.ticked.features)
    found: dict[str, list[float | None]] = {name: [] for name in MEASURED}
    for seed in bench.facts["seeds"]:
        work = data.bench(bench.here.run, str(bench.facts["task"]), bench.method, int(seed)).work
        outcome = work.ablate(picked)
        values = (outcome.target, outcome.spurious, outcome.worst_group, work.scr(outcome))
        for name, value in zip(MEASURED, values, strict=True):
            found[name].append(value)
    bench.ticked.checked = frozenset(picked), {name: mean_interval(values) for name, values in found.items()}


def _texts(bench: Bench, listed: Sequence[Row]) -> None:
    row = next((row for row in listed if row.feature == bench.ticked.looked), None)
    if row is None:
        st.caption("“texts” beside a feature shows the texts on which it is strongest.")
        return
    names = bench.names
    found = data.strongest_texts(bench.ready, bench.method, row.feature)
    st.html(
        section(
            f"Where {row.title.lower()} is strongest",
            f"Training texts, first of {names.spurious[1]}, then of {names.spurious[0]}; the number is its mean "
            "coefficient, words that go with it are bold. A feature of the target is strong in both.",
        )
        + text_cards(names, found.to_dict("records"), list(row.words))
    )
