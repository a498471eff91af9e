"""Sections of the page on what features are good for: concepts, a known truth, and spurious correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_core.activations.origins.text.asked import what_was_read
from sae_core.analysis.concepts.detected import texts_used
from sae_core.analysis.shared.names_in_tables import COVERED, PLAIN, RAW, SCALED, STANDARDISED, texts_in_words
from sae_core.analysis.shared.seeds import within
from sae_core.analysis.truth.figures import RANDOM_RECALL, RECALL
from sae_core.analysis.truth.figures import TABLE as TRUTH
from sae_core.foundation.figures import percents, plain
from sae_core.foundation.methods import REFERENCE, control_name, title_of
from sae_core.foundation.numbers import compact, decimal, percent, signed
from sae_core.report.charts import Axis, Point, Row, Series, dots, drawn, lines, point
from sae_core.report.controls import rows_of
from sae_core.report.html import Cell, Column, Html, charts, element, figure, folded, joined, number, table
from sae_core.report.reconstruction_sections import percent_tick, series_of
from sae_core.report.style import color_of
from sae_core.report.tables import Content, by_ensemble, truth_differences


@dataclass(frozen=True, slots=True)
class _Method:
    """A method of detection: what people read, whose colour it has, its figures, and whether its line is dashed."""

    title: str
    name: str
    color: str
    figures: Mapping[str, Any]
    dashed: bool = False


def _methods(content: Content) -> list[_Method]:
    """The ensembles, behind a boosted one its control, then the baselines."""
    found = []
    for place, (name, own) in enumerate(content["ensembles"].items()):
        found.append(_Method(title_of(name), name, color_of(name, place), own["figures"]))
        control = own.get("control")
        if control and any(key.startswith("concepts.") for key in control["figures"]):
            found.append(_Method(control_name(name), "", color_of(name, place), control["figures"], dashed=True))
    for place, (name, floor) in enumerate(content["floors"].items(), start=len(content["ensembles"])):
        figures = {f"concepts.{key}": figure_ for key, figure_ in floor.items()}
        found.append(_Method(title_of(name), name, color_of(name, place), figures))
    return found


def concepts(content: Content) -> Html:
    """Detection of concepts with few features."""
    facts = content["concepts"]
    if not facts:
        return Html()
    methods = _methods(content)
    keys = [key for method in methods for key in method.figures if key.startswith("concepts.")]
    variants = [name for name in (STANDARDISED, PLAIN) if any(key.endswith(name) for key in keys)]
    counts = sorted({int(key.split(".")[1]) for key in keys} - {0})
    shown, tables = {}, {}
    for variant in variants:
        shown[variant] = figure(
            f"Accuracy by number of features, {variant}",
            _accuracy_chart(methods, counts, variant),
            "Mean accuracy over concepts, with 95 % intervals; guessing gives 50\u202f%.",
        )
        tables[variant] = _accuracy_table(methods, counts, variant)
    tasks = "; ".join(task_in_words(task) for task in facts["tasks"])
    first, *others = variants
    return joined(
        element("p", f"Tasks: {tasks}. Means leave the confounded task out.", kind="sub"),
        *(
            element("p", f"Task {task['task']}: {said}", kind="note")
            for task in facts["tasks"]
            if (said := what_was_read(task.get("read", {})))
        ),
        charts(shown[first]),
        tables[first],
        _above_single(content, counts, first),
        *(
            folded(
                f"{variant.capitalize()} coefficients",
                joined(element("p", SCALED, kind="sub"), charts(shown[variant]), tables[variant]),
            )
            for variant in others
        ),
        folded("Every concept of the first run", _concept_table(facts["rows"])),
    )


def _above_single(content: Content, counts: list[int], variant: str) -> Html:
    """What ensembles detect better than one SAE, on the same texts."""
    rows = [
        [
            Cell(f"{title_of(name)} − {title_of(REFERENCE)}", color=color_of(name)),
            *(number(own["against_single"].get(f"concepts.{m}.{variant}"), _points) for m in counts),
        ]
        for name, own in content["ensembles"].items()
        if name != REFERENCE and any(f"concepts.{m}.{variant}" in own["against_single"] for m in counts)
    ]
    rows += [
        [
            Cell(f"{title_of(name)} − {control_name(name)}", color=color_of(name)),
            *(number(control["detected_above"].get(f"concepts.{m}.{variant}"), _points) for m in counts),
        ]
        for name, own in content["ensembles"].items()
        if (control := own.get("control")) and control.get("detected_above")
    ]
    if not rows:
        return Html()
    said = "Differences to one SAE and to untrained stages, in points, paired: on the same test texts."
    return element("p", said, kind="sub") + table(["", *(f"{m} feature{'s' if m > 1 else ''}" for m in counts)], rows)


def _points(share: float) -> str:
    return signed(100 * share, 1)


def task_in_words(task: Mapping[str, Any]) -> str:
    """``kind (3 concepts; each 168 training and 72 test texts from 31 places, …)``."""
    said = f"{len(task['classes'])} concepts"
    return f"{task['task']} ({said}; each {texts_used(task)})" if task.get("used") else f"{task['task']} ({said})"


def _accuracy_chart(methods: Sequence[_Method], counts: list[int], variant: str) -> Html:
    series = []
    for place, method in enumerate(methods):
        points = []
        for x, m in enumerate(counts):
            found = method.figures.get(f"concepts.{m}.{variant}")
            # Side by side, so that intervals do not hide each other.
            shift = 0.05 * (place - (len(methods) - 1) / 2)
            points += point(x + shift, found, f"{method.title}, {m}: {percent(found['mean'])}" if found else "")
        series.append(Series(method.title, method.color, points, dashed=method.dashed))
    raw = next((method.figures.get(f"concepts.0.{variant}") for method in methods if method.name == RAW), None)
    if raw and raw["mean"] is not None:
        ends = [Point(-0.2, raw["mean"]), Point(len(counts) - 0.8, raw["mean"])]
        series.append(Series(f"{RAW}, all dimensions", color_of(RAW), ends, dashed=True, marked=False))
    across = Axis(
        "features a detector may use", lambda x: str(counts[round(x)]) if 0 <= x < len(counts) else "", whole=True
    )
    return lines(series, across, Axis("accuracy", percent_tick, include=(0.5,)), label="Accuracy of concept detection")


def _accuracy_table(methods: Sequence[_Method], counts: list[int], variant: str) -> Html:
    rows = []
    for method in methods:
        figures = [method.figures.get(f"concepts.{m}.{variant}") for m in counts]
        title = method.title
        if not any(figures):
            figures = [method.figures.get(f"concepts.0.{variant}")] * len(counts)
            title = f"{method.title}, all dimensions"
        if any(figures):
            rows.append([Cell(title, color=color_of(method.name)), *(number(each, percents()) for each in figures)])
    return table(["", *(f"{m} feature{'s' if m > 1 else ''}" for m in counts)], rows)


def _concept_table(rows: list[Mapping[str, Any]]) -> Html:
    heads: list[str | Column] = [
        "",
        Column("Method", prose=True),
        "Features",
        Column("Variant", prose=True),
        "Accuracy",
        "ROC-AUC",
        "F1",
        "Detection rate",
        "False positives",
    ]
    cells = []
    for row in rows:
        figure_ = {"mean": row["accuracy"], "low": row["accuracy_low"], "high": row["accuracy_high"]}
        cells.append(
            [
                Cell(f"{row['task']}: {row['concept']}"),
                Cell(title_of(row["method"]), color=color_of(row["method"])),
                Cell("all" if row["m"] == 0 else str(row["m"])),
                Cell(row["variant"]),
                number(figure_, percents()),
                *(Cell(decimal(row[key], 3)) for key in ("auc", "f1")),
                *(Cell(percent(row[key])) for key in ("detection_rate", "false_positive_rate")),
            ]
        )
    return table(heads, cells)


def truth(content: Content) -> Html:
    """What was found of a known dictionary."""
    if not content["truth"]:
        return Html()
    rows = [
        Row(
            *(title, color_of(method or title, place)),
            *(recall["mean"], recall["low"], recall["high"], random and random["mean"]),
        )
        for place, (title, method, figures) in enumerate(rows_of(content["ensembles"], TRUTH))
        if (recall := figures.get(RECALL.key))
        for random in [figures.get(RANDOM_RECALL.key)]
    ]
    recalled = Axis("recall", percent_tick, include=(0.0,))
    return joined(
        element(
            "p", "The activations come from a known dictionary, so what was found of it can be counted.", kind="sub"
        ),
        by_ensemble(content, TRUTH),
        element("p", COVERED, kind="note") if len(content["runs"]) == 1 else "",
        folded("How much more than random dictionaries, one SAE and random stages", truth_differences(content)),
        charts(
            figure(
                "True features that were found",
                dots(rows, recalled, label="Recall", mark="random dictionary of the same size"),
                "Share of true features with an atom of their own at |cosine| ≥ 0.9.",
            ),
            drawn(
                *("By how often they fire", series_of(content["truth"]["by_frequency"], _recall_of_bins)),
                *(Axis("firing probability (log scale)", lambda value: f"{value:.2g}", log=True), recalled),
                "Recall of true features, by their probability of firing.",
                label="Recall by firing probability",
            ),
        ),
    )


def _recall_of_bins(_: str, bins: Sequence[Mapping[str, Any]]) -> Iterator[Point]:
    for part in bins:
        yield from point((part["from"] * part["to"]) ** 0.5 or None, part["recall"])


def spurious(content: Content) -> Html:
    """Removing a spurious correlation by ablating features."""
    if not content["spurious"]:
        return Html()
    parts = []
    for task in content["spurious"]:
        figures = [row for row in task["figures"] if not row["retrained"]]
        ranking = next((row["ranking"] for row in figures if row["ranking"]), "")
        shown = [row for row in figures if row["ranking"] in ("", ranking)]
        parts += [element("h3", str(task["task"])), element("p", str(task["description"]), kind="sub")]
        parts.append(element("p", _spurious_source(task), kind="note"))
        if said := what_was_read(task.get("read", {})):
            parts.append(element("p", said, kind="note"))
        parts.append(charts(*_spurious_charts(shown, ranking)))
        parts.append(folded("Every figure", _spurious_table(task["figures"])))
    return joined(*parts)


def _spurious_source(task: Mapping[str, Any]) -> str:
    """What the figures are means over."""
    runs, draws = len(task["runs"]), texts_in_words(task)
    if runs > 1:
        return f"Means over {runs} trainings, each over {draws}; intervals are of the trainings."
    return f"Means over {draws}; intervals are over these draws and do not know another training."


def _spurious_charts(rows: list[Mapping[str, Any]], ranking: str) -> list[Html]:
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["n"]:
            by_method.setdefault(row["method"], []).append(row)
    # Side by side, so that intervals do not hide each other.
    shift = {name: 1.05 ** (place - (len(by_method) - 1) / 2) for place, name in enumerate(by_method)}

    def score(name: str, own: list[Mapping[str, Any]]) -> Iterator[Point]:
        for row in own:
            yield from point(row["n"] * shift[name], row["scr"])

    def accuracy(name: str, own: list[Mapping[str, Any]]) -> Iterator[Point]:
        for row in own:
            yield from point(row["n"] * shift[name], within(row["worst_group"], 0.0, 1.0))

    across, title = Axis("ablated features (log scale)", compact, log=True), "Accuracy in the worst group"
    return [
        drawn(
            *("S_SCR score", series_of(by_method, score), across, Axis("S_SCR score", lambda value: f"{value:.2g}")),
            f"0 is the biased probe, 1 the oracle; features ranked by the {ranking}.",
        ),
        drawn(
            *(title, series_of(by_method, accuracy), across, Axis(title, percent_tick)),
            "Of the four groups by target and spurious label.",
        ),
    ]


def _spurious_table(rows: list[Mapping[str, Any]]) -> Html:
    heads: list[str | Column] = [
        "",
        Column("Ranked by", prose=True),
        "Ablated",
        "Retrained",
        "Target",
        "Spurious",
        "Worst group",
        "S_SCR",
    ]
    return table(
        heads,
        [
            [
                Cell(title_of(row["method"]), color=color_of(row["method"])),
                Cell(row["ranking"]),
                Cell(str(row["n"])),
                Cell("yes" if row["retrained"] else "no"),
                *(number(within(row[key], 0.0, 1.0), percents()) for key in ("target", "spurious", "worst_group")),
                number(row["scr"], plain(2)),
            ]
            for row in rows
        ],
    )
