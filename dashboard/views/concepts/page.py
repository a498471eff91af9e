"""Concepts: how well a few features detect a concept, per task and method, and which features those are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.shared.address import Here, here
from dashboard.shared.common import chart, choice, feature_link, missing
from dashboard.shared.look.cards import card, chip_row, notice, plain
from dashboard.shared.look.colors import method_color
from dashboard.shared.look.suggested import suggestion_line
from dashboard.shared.reads import label_store, one_feature, tables
from dashboard.views.concepts import data
from dashboard.views.concepts.charts import (
    accuracy_chart,
    by_features,
    concept_chart,
    detectors,
    difference,
    examples,
    name_of,
    numbers_of_features,
    roc_chart,
    with_features,
)
from sae_core.activations.origins.text.asked import what_was_read
from sae_core.analysis.concepts.detected import Mean, difference_of, means_of, texts_used
from sae_core.analysis.concepts.detector_outcomes import KEY
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.analysis.shared.names_in_tables import PLAIN, SCALED, STANDARDISED
from sae_core.foundation.methods import REFERENCE, title_of
from sae_core.foundation.numbers import decimal, interval, percent, whole
from sae_core.report.html import Cell, Column, Html
from sae_core.report.pieces.cards import chip, heading, section, table
from sae_core.report.pieces.tokens import token_chips

TYPICAL = 5
"""Features that the page begins with, if that was measured."""
MAX_BUTTONS = 4
"""Ensembles that fit side by side; more are a menu."""
SHOWN = 6
"""Features that are shown of a detector before one asks for more."""
LOOKS = {"accuracy": "Accuracy", "features": "By number of features", "roc": "ROC"}
"""What can be drawn of one concept."""
VARIANTS = {STANDARDISED: "Standardised coefficients", PLAIN: "Coefficients as they are"}
COLUMNS = (
    Column("Method"),
    Column("Accuracy", "Share of test texts classified rightly; below it the 95 % bootstrap interval"),
    Column("To one SAE", "Points of accuracy above the single SAE's, on the same test texts; below it the interval"),
    Column("AUC", "Area under the ROC curve"),
    Column("F1", "Harmonic mean of precision and recall"),
    Column("Detected", "Share of the texts with the concept that are found (true-positive rate)"),
    Column("False alarms", "Share of the texts without it that are taken for it (false-positive rate)"),
)


def show(here: Here) -> None:
    """The whole page."""
    what = here.words.judged
    st.html(
        heading(
            "Concepts",
            f"Can a few features tell whether a {what} has a concept? For every concept the best features are chosen "
            f"on training {what}s, a logistic regression is fitted on them, and held-out {what}s are classified.",
        )
    )
    results, facts = tables.concepts(here.run), tables.evaluation(here.run, CONCEPTS.name)
    if results is None or facts is None or results.empty:
        missing(here, "evaluate", "Concept detection is not measured yet")
        return
    tasks = {str(task["task"]): task for task in facts["tasks"]}
    measured = set(results["task"])
    with st.container(horizontal=True, gap="medium"):
        task = choice("task", "Task", [name for name in tasks if name in measured] or sorted(measured))
        variants = [name for name in VARIANTS if name in set(results["variant"])]
        variant = choice("variant", "Coefficients", variants, VARIANTS.__getitem__)
    about = tasks.get(task, {})
    chosen = results[(results["task"] == task) & (results["variant"] == variant)]
    _about(about, what)
    if variant == PLAIN:
        st.caption(SCALED)
    every_mean = data.mean_accuracies(here.run)
    chance = about.get("chance")
    used = ""
    numbers = [str(m) for m in numbers_of_features(chosen)]
    if len(numbers) > 1:
        chart(
            by_features(chosen, chance, _known(every_mean, task, variant)),
            f"{task}: how many features it takes",
            "Means over all concepts; a line that starts high needs few features. The dashed line uses all dimensions "
            "of the activation itself, and the dotted one is guessing. Bars are 95 % intervals; whether two methods "
            "differ is said by the table of differences.",
            key=f"by-features-{task}-{variant}",
        )
        _differences(every_mean, chosen, task, variant)
    if numbers:
        m = choice("m", "Features a detector uses", numbers, lambda m: f"m = {m}", default=str(TYPICAL))
        chosen = with_features(chosen, int(m))
        used = f", {m} feature{'' if m == '1' else 's'}"
    chart(
        accuracy_chart(chosen, chance),
        f"{task}: all concepts{used}",
        "Large marks are means over the concepts, small dots single concepts; further right is better, "
        "and the dashed line is guessing.",
        key=f"accuracy-{task}-{variant}-{len(chosen)}",
    )
    every = results[(results["task"] == task) & (results["variant"] == variant)]
    _concept(here, chosen, every, chance, used)


def _known(means: pd.DataFrame, task: str, variant: str) -> dict[tuple[str, int], Mean]:
    """By (method, m) the mean accuracy over the concepts of a task, with its interval."""
    named = {key: key[1].split(".", 1) for key in means_of(means, task)}
    found = means_of(means, task)
    return {(key[0], int(m)): found[key] for key, (m, own) in named.items() if own == variant}


def _differences(means: pd.DataFrame, chosen: pd.DataFrame, task: str, variant: str) -> None:
    """By how much each method detects the concepts of a task better than one SAE."""
    numbers = numbers_of_features(chosen)
    by_number = [difference_of(means, task, m, variant) for m in numbers]
    methods = [name for name in dict.fromkeys(chosen["method"].astype(str)) if name != REFERENCE]
    rows = [
        [Cell(title_of(name), color=method_color(name)), *(difference(own.get((name, REFERENCE))) for own in by_number)]
        for name in methods
        if any((name, REFERENCE) in own for own in by_number)
    ]
    if rows:
        heads = [Column(f"m = {m}") for m in numbers]
        st.html(
            section(
                "Differences to one SAE",
                "Points of mean accuracy, with 95 % intervals that draw the same test texts for both; an interval that "
                "holds 0 could be chance.",
            )
            + table([Column("Method"), *heads], rows)
        )


def _about(about: dict[str, Any], what: str) -> None:
    if not about:
        return
    st.markdown(plain(str(about.get("description", ""))))
    chips = [chip(f"{len(about.get('classes', []))} concepts")]
    chips += [
        chip(f"{whole(about[key])} {word} {what}s")
        for key, word in (("train_texts", "training"), ("test_texts", "test"))
        if key in about
    ]
    if about.get("chance") is not None:
        chips.append(chip(f"guessing: {percent(about['chance'], 0)}"))
    st.html(chip_row(*chips))
    on = f"Each concept is measured on {texts_used(about)}, half of them positive." if about.get("used") else ""
    if said := " ".join(filter(None, [on, what_was_read(about.get("read", {}))])):
        st.caption(said)


def _concept(here: Here, chosen: pd.DataFrame, every: pd.DataFrame, chance: float | None, used: str) -> None:
    concepts = list(dict.fromkeys(chosen["concept"].astype(str)))
    st.html(section("One concept", "Choose a concept to see its figures and the features that detect it."))
    concept = choice("concept", "Concept", concepts, menu=True)
    rows = chosen[chosen["concept"] == concept]
    left, right = st.columns([1.15, 1], gap="large")
    with left:
        look = choice("look", "What is drawn", list(LOOKS), LOOKS.__getitem__)
        if look == "roc":
            _roc(here, concept, rows, used)
        elif look == "features":
            chart(
                by_features(every[every["concept"] == concept], chance),
                f"{concept}: how many features it takes",
                "Accuracies on test texts with their 95 % bootstrap intervals.",
                key=f"by-features-of-{concept}",
            )
        else:
            chart(
                concept_chart(rows, chance),
                f"{concept}: accuracy{used}",
                "Marks are accuracies on test texts, bars their 95 % bootstrap intervals. Methods share the texts, so "
                "overlapping bars do not say whether they differ: the differences under All figures do.",
                key=f"accuracy-of-{concept}{used}",
            )
        with st.expander("All figures", icon=":material/table:"):
            st.html(table(COLUMNS, _rows(here, rows.sort_values("m", kind="stable"))))
    with right:
        _detectors(here, concept, rows)


def _roc(here: Here, concept: str, rows: pd.DataFrame, used: str) -> None:
    curves = data.detectors(here.run)
    own = None if curves is None else curves.merge(rows[[*KEY]], on=list(KEY))
    if own is None or own.empty:
        path = here.run.evaluation(CONCEPTS.name)
        st.html(
            notice(
                "No ROC curves are kept for this concept",
                f"They came with a later version. Delete {path.name} in {path.parent}, and run:",
                f"sae-ensemble evaluate {here.run.path}",
            )
        )
        return
    chart(
        roc_chart(own, rows),
        f"{concept}: ROC curves{used}",
        "How many texts with the concept are found if so many false alarms are allowed; the area under each curve in "
        "brackets, of 0.5 for guessing (dotted).",
        key=f"roc-of-{concept}{used}",
    )


def _rows(here: Here, rows: pd.DataFrame) -> list[list[Cell]]:
    """The figures of a concept's detectors."""
    first = rows.iloc[0]
    found = data.concept_accuracies(here.run, str(first["task"]), str(first["concept"]))
    cells = []
    for row in rows.to_dict("records"):
        above = None
        if found is not None and row["m"]:
            own = difference_of(found, str(row["task"]), int(row["m"]), str(row["variant"]))
            above = own.get((str(row["method"]), REFERENCE))
        cells.append(_row(row, above))
    return cells


def _row(row: Mapping[Any, Any], above: Mean | None) -> list[Cell]:
    return [
        Cell(name_of(str(row["method"]), int(row["m"])), color=method_color(str(row["method"]))),
        Cell(percent(row["accuracy"]), interval(row["accuracy_low"], row["accuracy_high"])),
        difference(above),
        Cell(decimal(row["auc"], 3)),
        Cell(decimal(row["f1"], 3)),
        Cell(percent(row["detection_rate"])),
        Cell(percent(row["false_positive_rate"])),
    ]


def _detectors(here: Here, concept: str, rows: pd.DataFrame) -> None:
    st.html(
        section(
            "Features that detect it",
            "In order of rank; + means the feature is stronger in texts with the concept, − in texts without it.",
        )
    )
    own = [name for name in dict.fromkeys(rows["method"]) if name in here.ensembles]
    usable = rows[rows["method"].isin(own) & (rows["m"] > 0)]
    if usable.empty:
        st.caption("No ensemble of this run was measured on this concept.")
        return
    own.sort(key=lambda name: here.ensemble is None or name != here.ensemble.name)  # the chosen ensemble first
    method = choice("method", "Ensemble", own, title_of, menu=len(own) > MAX_BUTTONS)
    mine = usable[usable["method"] == method].sort_values("m").to_dict("records")
    found = detectors(mine[-1])
    for feature, sign in found[:SHOWN]:
        _detector(here, method, feature, sign)
    if found[SHOWN:]:
        with st.expander(f"{len(found) - SHOWN} more", icon=":material/unfold_more:"):
            for feature, sign in found[SHOWN:]:
                _detector(here, method, feature, sign)


def _detector(here: Here, ensemble: str, feature: int, sign: int) -> None:
    info, atoms = here.ensembles[ensemble], tables.atoms(here.run, ensemble)
    if feature >= info.features:
        return
    member, _ = info.place(feature)
    label = label_store.label_of(here.run, info, feature)
    tokens = one_feature.peak_tokens(here.run, ensemble, [feature], count=4)[feature]
    if not tokens and atoms is not None:
        tokens = [str(atoms["top_token"].iloc[feature])]
    with st.container(border=True, gap="small"):
        whose = chip(
            f"{'+' if sign >= 0 else '−'} {info.member_word} {member}",
            title=f"rank by mean difference, {concept_sign(sign)}",
        )
        name = chip(label.label) if label and label.label else Html()
        suggestions = tables.suggestions(here.run, ensemble)
        suggested = Html() if suggestions is None else suggestion_line(suggestions.iloc[feature].to_dict())
        found = examples(one_feature.examples(here.run, ensemble, feature))
        st.html(card([whose, name], token_chips(tokens), suggested) + found)
        feature_link(here, feature, f"Feature {feature:,}", ensemble=ensemble)


def concept_sign(sign: int) -> str:
    """What a sign means, in words."""
    return "stronger with the concept" if sign >= 0 else "stronger without it"


show(here())
