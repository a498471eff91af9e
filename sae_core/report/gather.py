"""Everything that a report says, as plain values: the content of its JSON file, from which the page is made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.analysis.cost.effort import effort_of
from sae_core.analysis.figures import REPORTED
from sae_core.analysis.reconstruction.stage import LOSS
from sae_core.analysis.shared.jobs import measured
from sae_core.analysis.shared.names_in_tables import (
    MEASURED,
    RANDOM,
    RAW,
    RULE,
    SPURIOUS,
    SPURIOUS_KEYS,
    WORTH,
    where_to_stop,
)
from sae_core.analysis.shared.seeds import mean_interval
from sae_core.analysis.stability.stage import STABILITY
from sae_core.analysis.summary import evaluation_tokens
from sae_core.ensembles.manifest import read_manifest
from sae_core.foundation.files.whole_files import read_object, read_table
from sae_core.foundation.run import Run
from sae_core.report.controls import control_of
from sae_core.report.figures import by_members, compared, concept_means, ensemble_figures, verdict_on
from sae_core.report.known import found_of_truth
from sae_core.report.runs import Subject
from sae_core.report.verdict import decide

FORMAT = 1
FLOORS = (RAW, RANDOM)


def gather(subject: Subject) -> dict[str, Any]:
    """All figures of a report.

    Args:
        subject: The runs.
    """
    runs = subject.runs
    figures = ensemble_figures(runs)
    steps = {name: by_members(runs, name) for name in figures}
    concepts = concept_means(runs)
    controls = {name: control_of(runs, name, own) for name, own in figures.items()}
    detected = dict.fromkeys(key for own in figures.values() for key in own if key.startswith("concepts."))
    keys = [*(figure.key for figure in REPORTED if figure.compared), *detected]
    against = {
        name: {key: {**found, "verdict": verdict_on(found)} for key in keys if (found := compared(figures, name, key))}
        for name in figures
    }
    content: dict[str, Any] = {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": subject.path.resolve().name,
        "runs": [_run(run) for run in runs],
        "left_out": subject.left_out,
        "interval": "seeds" if len(runs) > 1 else "bootstrap",
        "corpus": _corpus(runs),
        "settings": runs[0].settings.model_dump(mode="json"),
        "ensembles": {
            name: {
                "figures": own,
                "by_members": steps[name],
                "stop": where_to_stop([_means(step) for step in steps[name]]),
                "against_single": against[name],
                "stages": read_manifest(runs[0].ensemble(name)).stages,
                "effort": asdict(effort_of(runs[0], name)),
                "control": controls[name],
            }
            for name, own in figures.items()
        },
        "rule": {"sentence": RULE, "worth": WORTH},
        "concepts": _concepts(runs[0]),
        "cross_entropies": _cross_entropies(runs),
        "floors": {name: {key: each for (method, key), each in concepts.items() if method == name} for name in FLOORS},
        "single_as_often": _single_as_often(runs[0]),
        "stages_over_trainings": _stages_over_trainings(runs[0]),
        "truth": found_of_truth(runs, figures, controls),
        "spurious": _spurious(runs),
        "sweep": subject.sweep,
    }
    return {**content, "decision": decide(content)}


def _run(run: Run) -> dict[str, Any]:
    manifest = run.read_manifest()
    finished = manifest["finished"]
    return {
        "name": run.name,
        "seed": run.settings.training.seed,
        "created": manifest.get("created"),
        "fingerprint": ACTIVATIONS.facts(run).get("fingerprint"),
        "versions": manifest.get("versions", {}),
        "devices": sorted({facts["device"] for facts in finished.values() if "device" in facts}),
        "evaluation_seconds": sum(
            facts.get("seconds", 0.0) for stage, facts in finished.items() if stage.startswith("evaluate/")
        ),
    }


def _corpus(runs: Sequence[Run]) -> dict[str, Any]:
    return {**CORPUS.facts(runs[0]), "measured_tokens": evaluation_tokens(runs[0])}


def _means(step: dict[str, Any]) -> dict[str, Any]:
    return {key: value["mean"] if isinstance(value, dict) else value for key, value in step.items()}


def _concepts(run: Run) -> dict[str, Any] | None:
    """What was detected, and every concept's best figures by method."""
    facts, path = measured(run, CONCEPTS), run.evaluation_table(CONCEPTS.name)
    if not facts or not path.exists() or not len(table := read_table(path)):
        return None
    columns = ["task", "concept", "method", "m", "variant", "accuracy", "accuracy_low", "accuracy_high", "auc", "f1"]
    columns += ["detection_rate", "false_positive_rate"]
    rows = table[columns].astype(object).where(table[columns].notna(), None)
    return {**facts, "rows": rows.to_dict("records")}


def _cross_entropies(runs: Sequence[Run]) -> dict[str, float]:
    """Between what the loss is recovered: of the model, with zero and with mean ablation; means over runs."""
    found = [content.get("cross_entropy") or {} for run in runs if (content := measured(run, LOSS))]
    means = {name: mean_interval([own.get(name) for own in found])["mean"] for name in (found[0] if found else ())}
    return {name: value for name, value in means.items() if value is not None}


def _single_as_often(run: Run) -> dict[str, Any] | None:
    """How stable one SAE is that is trained as often as an ensemble has members, over independent trainings."""
    found: dict[str, Any] | None = measured(run, STABILITY).get("single_as_often")
    return found


def _stages_over_trainings(run: Run) -> dict[str, Any]:
    """Of each boosted ensemble how stable its stages are over independent trainings, and their nulls."""
    own = measured(run, STABILITY).get("ensembles", {})
    return {
        name: {key: each.get(key) for key in ("by_stage", "noise")} for name, each in own.items() if "by_stage" in each
    }


def _spurious(runs: Sequence[Run]) -> list[dict[str, Any]] | None:
    """The tasks that were measured, each over all runs in which it was.

    Of one run figures are means over draws of the texts. Of several they are means over the runs, that is over
    trainings, of what each run has over its draws.
    """
    by_task: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for run in runs:
        if run.evaluation(SPURIOUS).exists():
            for task in read_object(run.evaluation(SPURIOUS), tasks=list)["tasks"]:
                by_task.setdefault(str(task["task"]), []).append((run.name, task))
    found = []
    for own in by_task.values():
        names, tasks = [name for name, _ in own], [task for _, task in own]
        figures = tasks[0]["figures"] if len(tasks) == 1 else _over_runs([task["figures"] for task in tasks])
        found.append({**tasks[0], "runs": names, "figures": figures})
    return found or None


def _over_runs(figures: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows that all runs have, with means over runs and their intervals."""
    by_key = [{tuple(row[name] for name in SPURIOUS_KEYS): row for row in rows} for rows in figures]
    return [
        {
            **dict(zip(SPURIOUS_KEYS, key, strict=True)),
            **{name: mean_interval([rows[key][name]["mean"] for rows in by_key]) for name in MEASURED},
        }
        for key in by_key[0]
        if all(key in rows for rows in by_key)
    ]
