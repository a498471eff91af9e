"""Sections of the page on reconstruction, dictionaries and cost, from the content of the report's JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sae_core.analysis.atoms.figures import TABLE as DICTIONARY
from sae_core.analysis.cost.figures import PER_COST, TIME_A_TOKEN, TRAIN_FLOPS
from sae_core.analysis.cost.figures import TABLE as COST
from sae_core.analysis.figures import BY_MEMBERS
from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE
from sae_core.analysis.reconstruction.figures import TABLE as RECONSTRUCTION
from sae_core.analysis.reconstruction.stage import LOSS
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION as RECONSTRUCTED
from sae_core.analysis.shared.names_in_tables import CONTROL, CONTROL_MISSING
from sae_core.analysis.stability.figures import RETRAINED
from sae_core.foundation.figures import Figure
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import is_control, title_of
from sae_core.foundation.numbers import decimal, percent, whole
from sae_core.report.charts import Axis, Point, Series, drawn, point
from sae_core.report.html import Html, charts, element, folded, joined
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


def series_of(
    ensembles: Mapping[str, Any], points: Callable[[str, Any], Iterable[Point]], *, joined: bool = True
) -> list[Series]:
    """The points of every ensemble, in its colour; those of a control are dashed."""
    return [
        Series(title_of(name), color_of(name, place), [*points(name, own)], joined=joined, dashed=is_control(name))
        for place, (name, own) in enumerate(ensembles.items())
    ]


def reconstruction(content: Content) -> Html:
    """How well ensembles reconstruct, and what members add."""
    ensembles, steps = content["ensembles"], []
    for each, own in zip(_by_step(ensembles, EXPLAINED_VARIANCE.path), ensembles.values(), strict=True):
        steps.append(each)
        if control := own.get("control"):
            (random,) = _by_step({RANDOM_STAGES: control}, EXPLAINED_VARIANCE.path)
            steps.append(replace(random, color=each.color, dashed=True))
    members = Axis("members (SAEs used)", whole=True)
    return joined(
        element("p", f"On {whole(content['corpus'].get('measured_tokens'))} held-out tokens.", kind="sub"),
        by_ensemble(content, RECONSTRUCTION),
        element("p", nats(content["cross_entropies"]), kind="sub") if content.get("cross_entropies") else "",
        *(element("p", text, kind="note") for text in control_notes(content)),
        charts(
            drawn(
                *("What each further member adds", steps, members, EXPLAINED),
                "Explained variance when only the first members are used; one SAE alone is a single dot.",
                label="Explained variance of the first members",
            ),
            drawn(
                *("What it costs to train", _prices(ensembles, TRAIN_FLOPS)),
                *(Axis("training arithmetic (FLOP, log scale)", TRAIN_FLOPS.style, log=True), EXPLAINED),
                "Higher explains more, further right takes more arithmetic to train; bars are 95 % intervals.",
                label="Explained variance against training arithmetic",
            ),
            *(
                drawn(
                    *(title, _by_step(ensembles, key), members, Axis(title, percent_tick)),
                    f"{shown.definition}; with the first members alone.",
                )
                for key, shown in BY_MEMBERS.items()
                if shown.source not in (RECONSTRUCTED.name, LOSS.name)
                for title in [shown.said[0].upper() + shown.said[1:]]
            ),
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


def _by_step(ensembles: Mapping[str, Any], key: str) -> list[Series]:
    """What the first members of each ensemble reach."""

    def points(name: str, own: Mapping[str, Any]) -> Iterator[Point]:
        for step in own["by_members"]:
            yield from _told(step["members"], step.get(key), name)

    return series_of(ensembles, points)


def _prices(ensembles: Mapping[str, Any], cost: Figure) -> list[Series]:
    """One dot an ensemble: what it explains, at what it costs."""

    def points(name: str, own: Mapping[str, Any]) -> list[Point]:
        price = own["figures"].get(cost.key)
        return _told(price and price["mean"], own["figures"].get(EXPLAINED_VARIANCE.key), name)

    return series_of(ensembles, points, joined=False)


def _told(x: float | None, found: Mapping[str, Any] | None, name: str) -> list[Point]:
    return point(x, found, f"{title_of(name)}: {percent(found['mean'], 2)}" if found else "")


def cost(content: Content) -> Html:
    """What ensembles cost, member by member."""
    ensembles, worth = content["ensembles"], content["rule"]["worth"]

    def later(_: str, own: Mapping[str, Any]) -> list[Point]:
        steps = [(step["members"], step[PER_COST.path]["mean"]) for step in own["by_members"][1:]]
        return [Point(members, added) for members, added in steps if added is not None]

    marginal = series_of(ensembles, later)
    ends = [each.x for own in marginal for each in own.points]
    if ends:
        limit = [Point(2, worth), Point(max(*ends, 3), worth)]
        marginal.append(Series("where the rule stops", "var(--muted)", limit, dashed=True, marked=False))
    return joined(
        element("p", "Of each ensemble by itself, as if nothing had been shared with another one.", kind="sub"),
        by_ensemble(content, COST),
        charts(
            drawn(
                *("Where to stop", marginal, Axis("member", whole=True)),
                Axis("added explained variance per cost", percent_tick, include=(0.0,)),
                "Explained variance that a member adds for as much training arithmetic as the first member took. "
                + content["rule"]["sentence"],
                label="Explained variance that each member adds for the cost of the first one",
            ),
            drawn(
                *("What it costs to use", _prices(ensembles, TIME_A_TOKEN)),
                *(Axis("measured time a token (log scale)", TIME_A_TOKEN.style, log=True), EXPLAINED),
                "Higher explains more, further right takes longer to encode and reconstruct a token.",
                label="Explained variance against measured time a token",
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
