"""The report in the overview: its sentences, where to stop, every figure in tables, and the page to take away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from dashboard.shared.address import Here
from dashboard.shared.common import chart
from dashboard.shared.look.cards import notice
from dashboard.views.overview import data
from dashboard.views.overview.findings import marginal_chart, recall_chart, stops
from sae_core.analysis.atoms.figures import TABLE as DICTIONARY
from sae_core.analysis.cost.figures import TABLE as COST
from sae_core.analysis.reconstruction.figures import TABLE as RECONSTRUCTION
from sae_core.analysis.shared.names_in_tables import COVERED
from sae_core.analysis.stability.figures import RETRAINED
from sae_core.analysis.truth.figures import TABLE as TRUTH
from sae_core.foundation.run import Run, report_page
from sae_core.report.html import Html, definitions, element, items, questions
from sae_core.report.pieces.cards import section
from sae_core.report.tables import as_often, by_ensemble, by_members, by_stage, noise_notes, truth_differences
from sae_core.report.wording import ANSWERS, DEFINITIONS, LIMITS


def _sae(made: Html) -> Html:
    """A piece of the report, with the dashboard's style."""
    return element("div", made, kind="sae")


def verdict(here: Here) -> None:
    """The sentence for those who decide; nothing where nothing is measured."""
    content = data.report(here.run)
    if content is not None:
        st.html(notice(content["decision"]["headline"]))


def what_it_comes_to(here: Here) -> None:
    """What it cost and bought, how sure that is and what to do next; and the report as a file."""
    content = data.report(here.run)
    if content is None:
        return
    st.html(
        section("What it comes to", "Every sentence is made from figures of this run, with 95 % intervals in brackets.")
        + _sae(questions(ANSWERS, content["decision"]))
    )
    run, name = here.run, here.run.path.name
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        for ending, mime, make in (
            ("html", "text/html", data.report_html),
            ("json", "application/json", data.report_json),
        ):
            st.download_button(
                f"Report as {ending.upper()}",
                # Made when it is asked for, from the figures as they are then.
                data=_made(make, run),
                file_name=f"{name}-report.{ending}",
                mime=mime,
                on_click="ignore",
                key=f"report-{ending}",
                icon=":material/download:",
            )
        written = report_page(run.path)
        said = f"Also in the run folder: {written.name}" if written.exists() else "sae-ensemble report writes it, too"
        st.caption(said)


def _made(make: Callable[[Run], str], run: Run) -> Callable[[], str]:
    return lambda: make(run)


def where_to_stop(here: Here) -> None:
    """What each member adds for its cost, the rule, and the costs of the first 1, 2, … members."""
    content = data.report(here.run)
    if content is None:
        return
    ensembles, rule = content["ensembles"], content["rule"]
    drawn = marginal_chart(ensembles, rule["worth"])
    if drawn is None:
        return
    chart(
        drawn,
        "Where to stop",
        "Explained variance that a member adds for as much training arithmetic as the first member took. "
        f"{rule['sentence']} So: {'; '.join(stops(ensembles))}.",
        key="where-to-stop",
    )
    with st.expander("Costs and gains of the first 1, 2, … members", icon=":material/table:"):
        st.html(_sae(by_members(content)))


def all_figures(here: Here) -> None:
    """Every figure of the report, with its definition at its heading."""
    content = data.report(here.run)
    if content is None:
        return
    _truth(content)
    _retrained(here, content)
    with st.expander("All figures, definitions and limits", icon=":material/table_chart:"):
        for title, columns in (("Reconstruction", RECONSTRUCTION), ("Dictionary", DICTIONARY), ("Cost", COST)):
            made = by_ensemble(content, columns)
            if made:
                st.html(section(title) + _sae(made))
        st.html(section("Definitions") + _sae(definitions(DEFINITIONS)) + section("Limits") + _sae(items(LIMITS)))


def _truth(content: Mapping[str, Any]) -> None:
    if not content["truth"]:
        return
    st.html(
        section("Known truth", "The activations come from a known dictionary, so what was found of it can be counted.")
        + _sae(by_ensemble(content, TRUTH))
    )
    st.caption(COVERED)
    with st.expander("How much more than random dictionaries, one SAE and random stages", icon=":material/table:"):
        st.html(_sae(truth_differences(content)))
    chart(
        recall_chart(content["truth"]["by_frequency"]),
        "Recall by how often true features fire",
        "Share of true features with an atom of their own at |cosine| ≥ 0.9, by their probability of firing.",
        key="recall-by-frequency",
    )


def _retrained(here: Here, content: Mapping[str, Any]) -> None:
    made = by_ensemble(content, RETRAINED)
    st.html(
        section(
            "Stability over trainings",
            "Whether another training, with another seed, finds the same features; beside random dictionaries of the "
            "same sizes, since width alone raises these figures.",
        )
    )
    if made:
        often = as_often(content)
        st.html(_sae(made))
        if often:
            st.caption(often)
        if content["stages_over_trainings"]:
            st.html(_sae(by_stage(content)))
        for text in noise_notes(content):
            st.caption(text)
    else:
        st.html(
            notice(
                "Not measured",
                "It needs other runs with the same settings and another seed. Run:",
                f"sae-ensemble evaluate {here.run.path} --retrain OTHER --retrain THIRD",
            )
        )
