"""Sections of the page on reconstruction, dictionaries and cost, from the content of the report's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_core.analysis.atoms.figures import TABLE as DICTIONARY
from sae_core.analysis.cost.figures import TABLE as COST
from sae_core.analysis.cost.figures import TIME_A_TOKEN, TRAIN_FLOPS
from sae_core.analysis.figures import BY_MEMBERS
from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE
from sae_core.analysis.reconstruction.figures import TABLE as RECONSTRUCTION
from sae_core.analysis.reconstruction.stage import LOSS
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION as RECONSTRUCTED
from sae_core.analysis.shared.names_in_tables import CONTROL, CONTROL_MISSING
from sae_core.analysis.stability.figures import RETRAINED
from sae_core.foundation.figures import Figure
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import title_of
from sae_core.foundation.numbers import decimal, percent, whole
from sae_core.report.charts import Axis, Point, Series, lines
from sae_core.report.html import Html, charts, element, figure, folded, joined
from sae_core.report.style import color_of
from sae_core.report.tables import Content, as_often, by_ensemble, by_members, by_stage, noise_notes


def percent_tick(value: float) -> str:
    """How a share is written at an axis."""
    return f"{100 * value:.3g} %"


EXPLAINED = Axis("explained variance", percent_tick)


def nats(references: Mapping[str, float]) -> str:
    """Between what the loss is recovered, in a sentence."""
    names = {"model": "the model itself", "zero": "activations set to zero", "mean": "to their mean"}
    said = ", ".join(f"{names.get(name, name)} {decimal(value, 3)}" for name, value in references.items())
    return f"Cross-entropy in nats a prediction: {said}."


def reconstruction(content: Content) -> Html:
    """How well ensembles reconstruct, and what members add."""
    steps, price = [], []
    for place, (name, own) in enumerate(content["ensembles"].items()):
        color = color_of(name, place)
        points = [_point(step["members"], step["explained_variance"], name) for step in own["by_members"]]
        steps.append(Series(title_of(name), color, [point for point in points if point]))
        if control := own.get("control"):
            points = [
                _point(step["members"], step["explained_variance"], RANDOM_STAGES) for step in control["by_members"]
            ]
            steps.append(Series(RANDOM_STAGES, color, [point for point in points if point], dashed=True))
        price.append(_price(name, place, own["figures"], TRAIN_FLOPS))
    members = Axis("members (SAEs used)", whole=True)
    return joined(
        element("p", f"On {whole(content['corpus'].get('measured_tokens'))} held-out tokens.", kind="sub"),
        by_ensemble(content, RECONSTRUCTION),
        element("p", nats(content["cross_entropies"]), kind="sub") if content.get("cross_entropies") else "",
        *(element("p", text, kind="note") for text in control_notes(content)),
        charts(
            figure(
                "What each further member adds",
                lines(steps, members, EXPLAINED, label="Explained variance of the first members"),
                "Explained variance when only the first members are used; one SAE alone is a single dot.",
            ),
            figure(
                "What it costs to train",
                lines(
                    price,
                    Axis("training arithmetic (FLOP, log scale)", TRAIN_FLOPS.style, log=True),
                    EXPLAINED,
                    label="Explained variance against training arithmetic",
                ),
                "Higher explains more, further right takes more arithmetic to train; bars are 95 % intervals.",
            ),
            *_findings(content, members),
        ),
    )


def control_notes(content: Content) -> list[str]:
    """What the control of boosting is, or that it is not measured; nothing without a boosted ensemble."""
    boosted = [own for own in content["ensembles"].values() if own.get("stages", 1) > 1]
    if not boosted:
        return []
    return [
        f"{RANDOM_STAGES.capitalize()}: {CONTROL}" if all(own.get("control") for own in boosted) else CONTROL_MISSING
    ]


def _findings(content: Content, members: Axis) -> list[Html]:
    """What the first members find, for each figure that was measured."""
    drawn = []
    for key, shown in BY_MEMBERS.items():
        if shown.source in (RECONSTRUCTED.name, LOSS.name):
            continue
        title = shown.said[0].upper() + shown.said[1:]
        series = [
            Series(
                title_of(name),
                color_of(name, place),
                [
                    point
                    for step in own["by_members"]
                    if key in step and (point := _point(step["members"], step[key], name))
                ],
            )
            for place, (name, own) in enumerate(content["ensembles"].items())
        ]
        drawn.append(
            figure(
                title,
                lines(series, members, Axis(title, percent_tick), label=title),
                f"{shown.definition}; with the first members alone.",
            )
        )
    return drawn


def _price(name: str, place: int, figures: Mapping[str, Any], cost: Figure) -> Series:
    """One dot: what an ensemble explains, at what it costs."""
    price, explained = figures.get(cost.key), figures.get(EXPLAINED_VARIANCE.key)
    point = _point(price["mean"], explained, name) if price and explained else None
    return Series(title_of(name), color_of(name, place), [point] if point else [], joined=False)


def _point(x: float | None, figure_: Mapping[str, Any], name: str) -> Point | None:
    if x is None or figure_["mean"] is None:
        return None
    title = f"{title_of(name)}: {percent(figure_['mean'], 2)}"
    return Point(x, figure_["mean"], figure_.get("low"), figure_.get("high"), title)


def cost(content: Content) -> Html:
    """What ensembles cost, member by member."""
    worth = content["rule"]["worth"]
    marginal, used = [], []
    for place, (name, own) in enumerate(content["ensembles"].items()):
        later = [step for step in own["by_members"][1:] if step["added_per_cost"]["mean"] is not None]
        points = [Point(step["members"], step["added_per_cost"]["mean"]) for step in later]
        marginal.append(Series(title_of(name), color_of(name, place), points))
        used.append(_price(name, place, own["figures"], TIME_A_TOKEN))
    drawn = [each for each in marginal if each.points]
    if drawn:
        last = max(point.x for each in drawn for point in each.points)
        limit = [Point(2, worth), Point(max(last, 3), worth)]
        drawn.append(Series("where the rule stops", "var(--muted)", limit, dashed=True, marked=False))
    chart = lines(
        drawn,
        Axis("member", whole=True),
        Axis("added explained variance per cost", percent_tick, include=(0.0,)),
        label="Explained variance that each member adds for the cost of the first one",
    )
    return joined(
        element("p", "Of each ensemble by itself, as if nothing had been shared with another one.", kind="sub"),
        by_ensemble(content, COST),
        charts(
            figure(
                "Where to stop",
                chart,
                "Explained variance that a member adds for as much training arithmetic as the first member took. "
                + content["rule"]["sentence"],
            ),
            figure(
                "What it costs to use",
                lines(
                    used,
                    Axis("measured time a token (log scale)", TIME_A_TOKEN.style, log=True),
                    EXPLAINED,
                    label="Explained variance against measured time a token",
                ),
                "Higher explains more, further right takes longer to encode and reconstruct a token.",
            ),
        ),
        folded("Costs of the first 1, 2, … members", members) if (members := by_members(content)) else "",
    )


def dictionary(content: Content) -> Html:
    """The atoms: how many differ, and whether another training finds them again."""
    retrained = by_ensemble(content, RETRAINED)
    known = (key for each in content["ensembles"].values() for key in each["figures"])
    if not any(key.startswith(("dictionary.", "stability.")) for key in known):
        return Html()
    own = by_ensemble(content, DICTIONARY)
    return joined(
        element(
            "p",
            "Stability compares the members of an ensemble with each other, beside random dictionaries.",
            kind="sub",
        ),
        own,
        *([element("h3", "Over independent trainings"), retrained] if retrained else []),
        element("p", as_often(content), kind="note") if retrained and as_often(content) else "",
        by_stage(content),
        *(element("p", text, kind="note") for text in noise_notes(content)),
    )
