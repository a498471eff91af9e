"""Whether one SAE of an ensemble's size does as well: at equal tokens, at equal steps and at equal arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sae_core.analysis.cost.effort import ABOUT, Effort, at_equal
from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE, MEMBERS
from sae_core.foundation.methods import EVERY, headed
from sae_core.foundation.settings.architectures import fixes_l0
from sae_core.report.figures import compared, verdict_on

Content = Mapping[str, Any]


def at_equal_cost(content: Content) -> Iterator[str]:
    """A sentence for every ensemble of several members and every such SAE, and what is still to be trained."""
    figures = {name: own["figures"] for name, own in content["ensembles"].items()}
    several = [name for name in figures if (figures[name].get(MEMBERS.key) or {"mean": 1})["mean"] > 1]
    if not several:
        return
    baseline, size = _baseline(content)
    long = [name for name, each in EVERY.items() if each.long_form_of == baseline]
    wanted = [baseline, *(long if _in_turn(content, several) else ())]
    words: Mapping[str, Callable[[str], str]] = {
        "higher": lambda what: f"explains more than {what}",
        "lower": lambda what: f"explains less than {what}",
        "open": lambda what: f"cannot be told apart from {what}",
    }
    for other in (each for each in wanted if each in figures):
        for name in several:
            found = compared(figures, name, EXPLAINED_VARIANCE.key, other)
            verdict = verdict_on(found)
            if found and verdict:
                said = compared_at(content, name, other)
                equal = f", {said}," if said else ""
                what = f"{size}, trained for as many steps as all stages," if other in long else size
                cheaper = verdict == "lower" and _costs_no_less(content, name, other)
                buy = ": that one is the better buy" if cheaper else ""
                gain = change({**found, "verdict": None})
                yield f"{headed(name)}{equal} {words[verdict](what)} ({gain}){buy}."
    missing = [each for each in wanted if each not in figures]
    if missing:
        yield _to_train(content, missing, [each for each in missing if each in long], size)


def _costs_no_less(content: Content, name: str, other: str) -> bool:
    """Whether training an ensemble took at least about the arithmetic of another one, as far as it was recorded."""
    one, two = ((content["ensembles"][each].get("effort") or {}).get("flops") for each in (name, other))
    return not one or not two or one >= (1 - ABOUT) * two


def _baseline(content: Content) -> tuple[str, str]:
    """The method of one SAE that is to be compared with, and what it is."""
    architecture = content.get("settings", {}).get("sae", {}).get("architecture")
    fixed = architecture is None or fixes_l0(architecture)
    name = next(
        name for name, each in EVERY.items() if each.size and not each.long_form_of and each.needs_fixed_l0 == fixed
    )
    return name, EVERY[name].size


def _in_turn(content: Content, several: list[str]) -> bool:
    """Whether an ensemble takes more steps than one SAE, as stages that learn in turn do."""
    return any(content["ensembles"][name].get("stages", 1) > 1 for name in several)


def _to_train(content: Content, missing: list[str], long: list[str], size: str) -> str:
    """What to train before ensembling is credited, and how."""
    named = " and ".join(missing)
    steps = f"; {long[0]} is it for as many steps as the stages take together" if long else ""
    methods = ",".join([*content["ensembles"], *missing])
    return (
        "An ensemble has as many times the width, and the active features, of one SAE as it has members: train "
        f"{named}, {size}{steps}, before you say that ensembling and not size or more steps is what helps: "
        f"sae-ensemble train RUN --methods {methods} adds it to a run, and evaluate measures it."
    )


def compared_at(content: Content, name: str, other: str) -> str:
    """At equal what two ensembles of a report are compared, in words; empty where that was not recorded."""
    one, two = (content["ensembles"].get(each, {}).get("effort") for each in (name, other))
    return at_equal(Effort(**one), Effort(**two)) if one and two else ""


def change(figure: Mapping[str, Any]) -> str:
    """+13.7 points (13.3 to 14.1); where that could be chance it is said."""
    text = f"{points(figure['mean'])} points"
    if figure["low"] is None:
        return f"{text} (no interval)"
    if figure["low"] == figure["high"] == 0:
        return f"{text} (exactly the same)"
    may = ", could be chance" if figure["verdict"] == "open" else ""
    return f"{text} ({points(figure['low'])} to {points(figure['high'])}{may})"


def points(share: float) -> str:
    """0.0459 as ``+4.6``, with a true minus sign."""
    return f"{100 * share + 0.0:+.1f}".replace("-", "−")
