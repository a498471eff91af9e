"""What a sweep came to: one row per setting and ensemble, over its seeds, and which setting to choose.

The rule is the paper's (Gadgil, Lin, Lee, *Ensembling Sparse Autoencoders*, section 5): hyper-parameters at which one
SAE explains about 90 % of the variance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sae_core.analysis.cost.stage import COST
from sae_core.analysis.figures import SWEPT
from sae_core.analysis.reconstruction.stage import RECONSTRUCTION
from sae_core.analysis.shared.seeds import mean_interval, within
from sae_core.analysis.summary import ensembles_measured, summarize
from sae_core.foundation.figures import Figure, Style
from sae_core.foundation.methods import EVERY
from sae_core.foundation.run import Run
from sae_core.runs.sweep.combinations import Sweep, Values

TARGET = 0.9
"""Explained variance that one SAE is to reach."""
ABOUT = 0.005
"""What may be missing to it: it counts as reached if it is reached in whole percent."""
SEED = "training.seed"
OF_THE_ENSEMBLE = ("training.members", "training.methods", "training.group", "training.boosting", "training.residuals")
"""Settings that do not change one SAE."""


def collect(sweep: Sweep, runs: Sequence[Run], *, target: float = TARGET) -> dict[str, Any]:
    """The figures of a sweep.

    Args:
        sweep: The sweep.
        runs: Its runs, one a combination; those that are not measured yet are left out.
        target: Explained variance that one SAE is to reach.

    Returns:
        ``varied``, ``runs`` (each with its values and figures by ensemble), ``settings`` (the same over seeds: values,
        ensemble, ``seeds`` and for every figure mean, low, high and values) and ``choice`` (see `choose`).
    """
    measured = []
    for combination, run in zip(sweep.combinations, runs, strict=True):
        if not run.evaluation(RECONSTRUCTION.name).exists():
            continue
        rows = {row.pop("ensemble"): row for row in summarize(run)}
        measured.append({"run": run.name, "values": combination.values, "ensembles": rows, "one": _one_sae(run)})
    settings = _over_seeds(sweep, measured)
    choice = choose(sweep.names, measured, target=target)
    shown = [{key: value for key, value in each.items() if key != "one"} for each in measured]
    return {"varied": list(sweep.names), "runs": shown, "settings": settings, "choice": choice}


def _one_sae(run: Run) -> dict[str, float | None] | None:
    """What one SAE of a run explains, and costs: the single one, or else the first member of an ensemble."""
    figures, costs = (ensembles_measured(run, stage.name) for stage in (RECONSTRUCTION, COST))
    for name in figures:
        if name in EVERY and EVERY[name].starts_with_one(run.settings):
            first = figures[name]["by_members"][0]
            cost = (costs.get(name, {}).get("by_members") or [{}])[0]
            return {
                "explained_variance": first["explained_variance"],
                "l0": first["l0"],
                "train_flops": cost.get("train_flops"),
                "inference_flops": cost.get("inference_flops_per_token"),
            }
    return None


def _grouped(measured: Sequence[dict[str, Any]], left_out: Sequence[str]) -> list[tuple[Values, list[dict[str, Any]]]]:
    """Runs that agree in all values but those of some settings, in order."""
    groups: dict[str, tuple[Values, list[dict[str, Any]]]] = {}
    for each in measured:
        values = {name: value for name, value in each["values"].items() if name not in left_out}
        groups.setdefault(json.dumps(values), (values, []))[1].append(each)
    return list(groups.values())


def _over_seeds(sweep: Sweep, measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for values, those in _grouped(measured, [SEED]):
        names = dict.fromkeys(name for each in those for name in each["ensembles"])
        for name in names:
            own = [each["ensembles"][name] for each in those if name in each["ensembles"]]
            figures = {each.row: mean_interval([row.get(each.row) for row in own]) for each in SWEPT}
            figures |= {each.row: within(figures[each.row], 0.0, 1.0) for each in SWEPT if each.share}
            rows.append({"values": values, "ensemble": name, "seeds": len(own), "figures": figures})
    return rows


def choose(
    names: Sequence[str], measured: Sequence[dict[str, Any]], *, target: float = TARGET, about: float = ABOUT
) -> dict[str, Any]:
    """The cheapest setting at which one SAE explains about so much.

    Cheapest to train (counted operations), then the one with the fewest active features.

    Args:
        names: The settings that vary.
        measured: Runs with ``values`` and the figures of ``one`` SAE.
        target: Explained variance to reach, by the mean over seeds.
        about: What may be missing to it.

    Returns:
        ``target``, ``values`` (None if nothing reaches it), the figures of that setting or else of the one that comes
        closest, and a ``sentence``.
    """
    candidates = []
    for values, those in _grouped([each for each in measured if each["one"]], [SEED, *OF_THE_ENSEMBLE]):
        figures = {
            key: mean_interval([each["one"][key] for each in those])["mean"]
            for key in ("explained_variance", "l0", "train_flops", "inference_flops")
        }
        if figures["explained_variance"] is not None:
            candidates.append({"values": values, "runs": len(those), **figures})
    varied = [name for name in names if name not in (SEED, *OF_THE_ENSEMBLE)]
    if not candidates or not varied:
        why = "no setting of one SAE varies" if candidates else "no SAE is measured yet"
        return {"target": target, "values": None, "closest": None, "sentence": f"Nothing to choose from: {why}."}
    reaching = [each for each in candidates if each["explained_variance"] >= target - about]
    if reaching:
        cost = "train_flops" if all(each["train_flops"] for each in reaching) else "inference_flops"
        best = min(reaching, key=lambda each: (each[cost] or 0, each["l0"]))
        sentence = (
            f"The cheapest setting with about {target:.0%} explained variance for one SAE is "
            f"{_in_words(best['values'])} ({best['explained_variance']:.1%}, {best['l0']:.0f} active features; "
            f"{len(reaching)} of {len(candidates)} settings reach it)."
        )
        return {"target": target, "values": best["values"], "closest": best, "sentence": sentence}
    best = max(candidates, key=lambda each: each["explained_variance"])
    sentence = (
        f"No setting reaches about {target:.0%} explained variance for one SAE; {_in_words(best['values'])} comes "
        f"closest with {best['explained_variance']:.1%}. Try more active features, more width or more tokens."
    )
    return {"target": target, "values": None, "closest": best, "sentence": sentence}


def _in_words(values: Values) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def as_table(results: dict[str, Any]) -> list[dict[str, str]]:
    """The figures over seeds for people, one row per setting and ensemble."""
    several = any(row["seeds"] > 1 for row in results["settings"])
    columns = columns_of(results)
    rows = []
    for row in results["settings"]:
        figures = row["figures"]
        cells = {name.partition(".")[2]: str(value) for name, value in row["values"].items()}
        cells["ensemble"] = row["ensemble"]
        if several:
            cells["seeds"] = str(row["seeds"])
        for shown in columns:
            cells[shown.column] = _cell(figures[shown.row], shown.terminal, spread=shows_interval(shown))
        rows.append(cells)
    return rows


def columns_of(results: dict[str, Any]) -> list[Figure]:
    """The figures of a sweep's table: those that a setting has."""
    figures = [row["figures"] for row in results["settings"]]
    return [
        shown
        for shown in SWEPT
        if shown.column and any(own.get(shown.row, {}).get("mean") is not None for own in figures)
    ]


def shows_interval(shown: Figure) -> bool:
    """Whether a sweep's table gives the interval of a figure: of what an ensemble gains, but not of what it costs."""
    return shown.better == "higher"


def _cell(figure: dict[str, Any], style: Style, *, spread: bool) -> str:
    text = style(figure["mean"])
    if figure["mean"] is None or figure["low"] is None or not spread:
        return text
    return f"{text} ± {style((figure['high'] - figure['low']) / 2)}"
