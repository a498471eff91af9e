"""What the figures amount to, in sentences for those who decide: cost, gain, certainty, and what to do next.

Every sentence is made from figures of the report, and appears only where these say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sae_core.analysis.concepts.figures import SHOWN, detection
from sae_core.analysis.cost.figures import BYTES, TIME_A_TOKEN, TRAIN_FLOPS, TRAIN_SECONDS
from sae_core.analysis.figures import REPORTED
from sae_core.analysis.reconstruction.figures import DEAD as DEAD_FRACTION
from sae_core.analysis.reconstruction.figures import EXPLAINED_VARIANCE, MEMBERS
from sae_core.analysis.shared.names_in_tables import CONTROL_MISSING
from sae_core.analysis.truth.figures import F1, RECALL
from sae_core.foundation.figures import Figure
from sae_core.foundation.method import RANDOM_STAGES
from sae_core.foundation.methods import REFERENCE, control_name, headed, title_of
from sae_core.foundation.numbers import percent
from sae_core.report.baselines import at_equal_cost, change, compared_at
from sae_core.report.figures import verdict_on

DEAD = 0.1
"""Share of dead features from which an SAE is said to be trained badly."""
MOSTLY = 0.5
"""Share of a gain that needs no training, from which that is said as a warning."""
SEEDS = 5
"""Seeds that are advised."""
DETECTED = tuple(detection(m) for m in SHOWN)
"""Those of the figures of detection that the first page names; standardised, as bagging and boosting scale features."""
GAINS = tuple(figure for figure in (*REPORTED, *DETECTED) if figure.compared and figure is not EXPLAINED_VARIANCE)
"""What else may be gained."""

Content = Mapping[str, Any]


def decide(content: Content) -> dict[str, Any]:
    """The first page: ``headline``, and sentences on ``cost``, ``bought``, ``sure`` and ``next``.

    Args:
        content: The figures, as `gather` puts them together.
    """
    return {
        "headline": _headline(content),
        "cost": list(_cost(content)),
        "bought": list(_bought(content)),
        "sure": list(_sure(content)),
        "next": list(_next(content)),
    }


def mean(content: Content, name: str, figure: Figure) -> float | None:
    """The mean of a figure of an ensemble; None if it is not measured."""
    found = content["ensembles"].get(name, {}).get("figures", {}).get(figure.key)
    return None if found is None else found["mean"]


def _others(content: Content) -> list[str]:
    return [name for name in content["ensembles"] if name != REFERENCE]


def _best(content: Content) -> str | None:
    """The ensemble that surely explains more than the single SAE, and of those the most."""
    sure = _surely_better(content, (EXPLAINED_VARIANCE,), all)
    return max(sure, key=lambda name: mean(content, name, EXPLAINED_VARIANCE) or 0.0, default=None)


def _surely_better(content: Content, figures: Sequence[Figure], enough: Callable[[Iterable[bool]], bool]) -> list[str]:
    """Ensembles that are surely better than one SAE by enough of the figures, and surely worse by none."""
    found = []
    for name in _others(content):
        verdicts = {figure: _against(content, name, figure).get("verdict", "open") for figure in figures}
        better = [verdict == figure.better for figure, verdict in verdicts.items()]
        worse = [verdict not in ("open", None, figure.better) for figure, verdict in verdicts.items()]
        found += [name] if enough(better) and not any(worse) else []
    return found


def _against(content: Content, name: str, figure: Figure) -> dict[str, Any]:
    found: dict[str, Any] = content["ensembles"][name]["against_single"].get(figure.key, {})
    return found


def _times(content: Content, name: str, figure: Figure) -> float | None:
    """How many times as much as for the single SAE."""
    one, other = mean(content, name, figure), mean(content, REFERENCE, figure)
    return one / other if one and other else None


def _headline(content: Content) -> str:
    single, best = mean(content, REFERENCE, EXPLAINED_VARIANCE), _best(content)
    if single is None:
        known = {name: mean(content, name, EXPLAINED_VARIANCE) for name in content["ensembles"]}
        said = ", ".join(f"{title_of(name)} {percent(value)}" for name, value in known.items() if value is not None)
        return f"Explained variance: {said}. There is no single SAE among them to compare with."
    if best is None:
        if not _others(content):
            return f"One SAE explains {percent(single)} of the variance; no ensemble was trained to compare it with."
        return f"No ensemble explains clearly more than one SAE, which explains {percent(single)} of the variance."
    times = _times(content, best, TRAIN_FLOPS)
    price = f", for {times:.1f} times the training arithmetic" if times else ""
    price += _untrained(content, best)
    detected = _detecting_better(content)
    if not content["concepts"]:
        detection = "."
    elif detected:
        detection = (
            f"; concepts are detected better by {_listed(map(title_of, detected))}"
            f"{_unless_untrained(content, detected, DETECTED, 'better than by')}."
        )
    else:
        detection = "; in detecting concepts no ensemble is clearly better."
    found, at_first = mean(content, best, RECALL), mean(content, REFERENCE, RECALL)
    if found is not None and at_first is not None:
        at_random = (content["ensembles"][best].get("control") or {}).get("figures", {}).get(RECALL.key)
        beside = f", {control_name(best)} {percent(at_random['mean'])}" if at_random else ""
        detection = f"; of the true features it finds {percent(found)} (one SAE {percent(at_first)}{beside})."
    return (
        f"{headed(best)} raises explained variance from {percent(single)} (one SAE) to "
        f"{percent(mean(content, best, EXPLAINED_VARIANCE))}{price}{detection}"
    )


def _untrained(content: Content, name: str) -> str:
    """How much of what a boosted ensemble gains needs no training of its later stages."""
    own = content["ensembles"][name]
    if own.get("stages", 1) < 2:
        return ""
    control = own.get("control")
    if not control:
        return f" (how much of that {RANDOM_STAGES} would explain is not measured)"
    reached = percent(control["figures"][EXPLAINED_VARIANCE.key]["mean"])
    share = control["untrained_share"]["mean"]
    said = "" if share is None else f", so {percent(share, 0)} of what the later stages add needs no training"
    return f"; {RANDOM_STAGES} explain {reached}{said}"


def _above_untrained(content: Content, name: str) -> dict[str, Any]:
    """What an ensemble detects and finds more than stages without training, by key of the figure."""
    control = content["ensembles"][name].get("control") or {}
    return {**control.get("detected_above", {}), **control.get("found_above", {})}


def _unless_untrained(content: Content, names: list[str], figures: Sequence[Figure], words: str) -> str:
    """Which of the ensembles are by none of the figures surely above stages without training, in brackets."""
    open_ = []
    for name in names:
        above = _above_untrained(content, name)
        known = [above[figure.key]["verdict"] == figure.better for figure in figures if figure.key in above]
        open_ += [control_name(name)] if known and not any(known) else []
    return f" (but not surely {words} {_listed(open_)})" if open_ else ""


def _detecting_better(content: Content) -> list[str]:
    """Ensembles that surely detect concepts better by a figure of `DETECTED`, and by none of them worse.

    By these alone: of all numbers of features, plain and standardised, some would differ surely by chance. Of one
    training, whose intervals know of other texts but not of other seeds, both have to be better.
    """
    return _surely_better(content, DETECTED, any if len(content["runs"]) > 1 else all)


def _finding_more(content: Content) -> list[str]:
    """Ensembles that surely find more of the true features than one SAE.

    Of one training, whose intervals know of other true features but not of other seeds, F1 has to be higher, too.
    """
    return _surely_better(content, (RECALL,) if len(content["runs"]) > 1 else (RECALL, F1), all)


def _cost(content: Content) -> Iterator[str]:
    for name in content["ensembles"]:
        parts = [f"{mean(content, name, MEMBERS) or 1:.0f} × SAE"]
        for figure, what in (
            *((TRAIN_SECONDS, "of training"), (TRAIN_FLOPS, "of arithmetic")),
            *((BYTES, "on disk"), (TIME_A_TOKEN, "a token in use")),
        ):
            value, times = mean(content, name, figure), _times(content, name, figure)
            if value is not None:
                factor = f" ({times:.1f}×)" if times and name != REFERENCE else ""
                parts.append(f"{(figure.short or figure.style)(value)} {what}{factor}")
        if len(parts) > 1:
            yield f"{headed(name)}: {', '.join(parts)}."


def _bought(content: Content) -> Iterator[str]:
    if REFERENCE not in content["ensembles"]:
        yield "No single SAE was trained, so nothing can be said about what an ensemble adds to it."
        return
    for name in _others(content):
        parts = []
        if explained := _against(content, name, EXPLAINED_VARIANCE):
            parts.append(f"{EXPLAINED_VARIANCE.said} {change(explained)}")
        if control := content["ensembles"][name].get("control"):
            above = control["trained_above"]
            parts.append(f"of these {change({**above, 'verdict': verdict_on(above)})} above {RANDOM_STAGES}")
        above = _above_untrained(content, name)
        for figure in GAINS:
            if found := _against(content, name, figure):
                known = figure.key in above
                beside = f", {change(above[figure.key])} against {control_name(name)}" if known else ""
                parts.append(f"{figure.said} {change(found)}{beside}")
        if parts:
            yield f"{headed(name)} against one SAE{_trained_as(content, name)}: {'; '.join(parts)}."


def _trained_as(content: Content, name: str) -> str:
    """At equal what an ensemble is compared with the single SAE."""
    said = compared_at(content, name, REFERENCE)
    return f", {said}" if said else ""


def _sure(content: Content) -> Iterator[str]:
    count = len(content["runs"])
    if count > 1:
        yield (
            f"Figures are means over {count} trainings with different seeds, with 95 % confidence intervals of these "
            "means."
        )
        if count < SEEDS:
            yield f"With {count} seeds intervals are wide; {SEEDS} or more tell smaller differences apart."
    else:
        yield (
            "All figures come from one training with one seed: intervals say how much depends on the "
            f"{'tokens and true features' if content.get('truth') else 'tokens and texts'} that were drawn, not what "
            "another seed would change."
        )
    against = [content["ensembles"][name]["against_single"] for name in _others(content)]
    known = [figure["verdict"] for own in against for figure in own.values() if figure["verdict"]]
    if known:
        clear = sum(verdict != "open" for verdict in known)
        yield (
            f"Of {len(known)} differences to the single SAE, {clear} cannot be chance by their intervals; of as many, "
            f"about {max(1, round(len(known) / 20))} would look so without any reason."
        )
    if content["left_out"]:
        yield f"{len(content['left_out'])} runs are not measured yet and left out."


def _next(content: Content) -> Iterator[str]:
    yield from _which(content)
    yield from _how_many(content)
    yield from at_equal_cost(content)
    for name in content["ensembles"]:
        dead = mean(content, name, DEAD_FRACTION)
        if dead is not None and dead > DEAD:
            yield (
                f"{percent(dead, 0)} of the features of {title_of(name)} are dead: train it longer, or at a lower "
                "rate, before it is compared."
            )
    if len(content["runs"]) < SEEDS:
        more = ",".join(str(seed) for seed in range(SEEDS))
        yield (
            f"Repeat it with {SEEDS} seeds before anything is published: sae-ensemble sweep, with these settings and "
            f"--vary training.seed={more}."
        )


def _which(content: Content) -> Iterator[str]:
    """Which ensemble to use for what."""
    best = _best(content)
    if best:
        yield f"Where reconstruction counts, use {title_of(best)}."
        yield from _not_learnt(content, best)
    elif REFERENCE in content["ensembles"] and _others(content):
        yield "Stay with one SAE: nothing here reconstructs clearly better."
    if REFERENCE not in content["ensembles"]:
        return
    if mean(content, REFERENCE, RECALL) is not None and _others(content):
        finding = _finding_more(content)
        untrained = _unless_untrained(content, finding, (RECALL,), "more than")
        if finding and len(content["runs"]) == 1:
            yield (
                f"In this training {_listed(map(title_of, finding))} found more of the true features than one SAE"
                f"{untrained}; whether other trainings would, only more seeds tell."
            )
        elif finding:
            yield f"Where true features are to be found, use {_listed(map(title_of, finding))}{untrained}."
        else:
            yield "No ensemble finds clearly more of the true features than one SAE, whatever it explains."
    if not content["concepts"]:
        return
    better = _detecting_better(content)
    if better:
        yield f"Where concepts are to be detected, {_listed(map(title_of, better))} may be worth the cost."
    elif _others(content):
        yield "Where concepts are to be detected, one SAE does: by 1 or 5 standardised features none is surely better."


def _not_learnt(content: Content, name: str) -> Iterator[str]:
    """A warning where random stages would do most of what trained ones do, or where that is not known."""
    own = content["ensembles"][name]
    if own.get("stages", 1) < 2:
        return
    control = own.get("control")
    share = control["untrained_share"]["mean"] if control else None
    if control is None:
        yield CONTROL_MISSING
    elif share is not None and share >= MOSTLY:
        yield (
            f"Do not take the features of later stages of {title_of(name)} for something learnt without looking: "
            f"random ones explain {percent(share, 0)} of what they do."
        )


def _how_many(content: Content) -> Iterator[str]:
    """Where to stop adding members."""
    worth = content["rule"]["worth"]
    for name, own in content["ensembles"].items():
        steps = own["by_members"]
        if len(steps) < 2:
            continue
        stop = own["stop"]
        step = steps[stop if stop else -1]
        added, per_cost = step["added_explained_variance"]["mean"], step["added_per_cost"]["mean"]
        if added is None or per_cost is None:
            continue
        figures = f"{100 * added:.2g} points of explained variance, {100 * per_cost:.2g} for the cost of the first"
        if stop:
            yield (
                f"{headed(name)}: stop at {stop} of {len(steps)} members; the next one adds {figures}, "
                f"less than the {100 * worth:g} that the rule asks for."
            )
        else:
            yield (
                f"{headed(name)}: all {len(steps)} members were worth it, and a further one may be; the "
                f"last one added {figures}."
            )


def _listed(names: Any) -> str:
    *first, last = list(names)
    return f"{', '.join(first)} and {last}" if first else str(last)
