"""Spurious correlations: pick by hand the features that carry one, and see at once what ablating them does (SHIFT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from dashboard.shared.address import Here, here
from dashboard.shared.common import chart, choice, missing, needs_text, trained_ensemble
from dashboard.shared.look.cards import chip_row, notice, plain
from dashboard.views.spurious import data
from dashboard.views.spurious.outcomes import MEASURES, Names, automatic_chart
from dashboard.views.spurious.workbench import workbench
from sae_core.activations.origins.text.asked import what_was_read
from sae_core.analysis.shared.names_in_tables import RANDOM, texts_in_words
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import whole
from sae_core.foundation.origin import GROUP, HELD_OUT
from sae_core.report.pieces.cards import chip, heading, section

MAX_BUTTONS = 4
"""Ensembles that fit side by side; more are a menu."""


def show(here: Here) -> None:
    """The whole page."""
    st.html(
        heading(
            "Remove a spurious correlation",
            "A probe for a target was trained where an attribute always goes together with it, so it leans on the "
            "attribute, too. Tick the features that mean the attribute and not the target: they are set to 0 in the "
            "activations, and the probe is tested where the two no longer go together.",
        )
    )
    info = trained_ensemble(here)
    tasks = {str(facts["task"]): facts for facts in data.spurious(here.run)}
    if not tasks:
        labels = here.run.settings.origin.labelled(here.run)
        if labels is None:
            needs_text(here)
            missing(here, "spurious")
            return
        named = [str(name) for name in labels if name not in (HELD_OUT, GROUP)]
        told = f"It needs two labels of the rows, of which there are: {', '.join(named) or 'none'}. Run:"
        command = f"sae-ensemble spurious {here.run.path} --target LABEL=A,B --attribute LABEL=A,B"
        st.html(notice("No spurious correlation is measured yet", told, command))
        return
    with st.container(horizontal=True, gap="medium"):
        task = choice("correlation", "Task", list(tasks))
        facts = tasks[task]
        methods = _methods(here, facts)
        default = info.name if info.name in methods else methods[0]
        method = choice("bench", "Features of", methods, title_of, menu=len(methods) > MAX_BUTTONS, default=default)
        seeds = [str(seed) for seed in facts["seeds"]]
        seed = choice("seed", "Texts", seeds, lambda seed: f"texts of seed {seed}", menu=True)
    _about(facts)
    workbench(here, facts, method, int(seed))
    _automatic(task, facts)


def _methods(here: Here, facts: Mapping[str, Any]) -> list[str]:
    """Whose features can be ticked: the ensembles and the random dictionary. Controls have no index to look at."""
    measured = dict.fromkeys(row["method"] for row in facts["figures"])
    return [name for name in measured if name == RANDOM or name in here.ensembles]


def _about(facts: Mapping[str, Any]) -> None:
    names = Names.of(facts)
    st.markdown(plain(str(facts["description"])))
    chips = [
        chip(f"target: {' or '.join(names.target[::-1])}", title="What the probe is to tell"),
        chip(f"spurious: {' or '.join(names.spurious[::-1])}", title="What it is not to go by"),
        chip(
            f"{whole(facts['confounded_texts'])} confounded texts",
            title=f"The probe is trained on them: all are {names.group(True, True)} or {names.group(False, False)}",
        ),
        chip(f"{whole(facts['balanced_texts'])} balanced texts", title="Features are ranked on them"),
        chip(f"{whole(facts['test_texts'])} test texts", title="Balanced over the four groups; used for testing alone"),
    ]
    st.html(chip_row(*chips))
    if read := what_was_read(facts.get("read", {})):
        st.caption(read)


def _automatic(task: str, facts: Mapping[str, Any]) -> None:
    st.html(section("What automatic ablation reaches", "The top features of the ranking, whatever they mean."))
    measure = choice("reached", "Measure", list(MEASURES), lambda name: MEASURES[name].split(" (")[0])
    chart(
        automatic_chart(facts["figures"], measure),
        f"{task}: {MEASURES[measure]}",
        f"Means over {texts_in_words(facts)}. Bars are 95 % intervals over these; dotted lines are untrained, "
        "a random dictionary or stage 1 with random stages, and show what ablating anything at all does.",
        key=f"automatic-{task}-{measure}",
    )


show(here())
