"""All evaluations of a run, stage by stage; what is finished is skipped, what is missing is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.activations.harvest import evaluation_cache, passages
from sae_core.activations.origins.language_model.substitution import SubstitutedModel, UnpredictingError
from sae_core.analysis.atoms.dictionary import measure_dictionary
from sae_core.analysis.concepts.runs import evaluate_concepts
from sae_core.analysis.cost.cost import TIMED_TOKENS, measure_cost
from sae_core.analysis.reconstruction.control import measure_controls, with_loss
from sae_core.analysis.reconstruction.loss import measure_loss, undefined
from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction
from sae_core.analysis.shared.random_twin import SAMPLE_ROWS
from sae_core.analysis.shared.sample import training_sample
from sae_core.analysis.shared.trained import trained_ensembles
from sae_core.analysis.stability.retrains import members_are_retrains
from sae_core.ensembles.ensemble import Ensemble
from sae_core.foundation.files.whole_files import read_table, write_json, write_table
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.methods import REPEATS
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import CONTROL_STAGE, DETECTION, DETECTORS, EVALUATION_STAGES, Run

CONTROL_GONE = "What random stages would explain in the place of trained ones cannot be measured:"

TABLES = {"reconstruction": ("reconstruction",), "concepts": ("concepts", DETECTORS, DETECTION)}
"""Tables that an evaluation writes beside its JSON file."""

Ensembles = dict[str, Ensemble]


def evaluate_run(
    run: Run,
    *,
    stages: Collection[str] = EVALUATION_STAGES,
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Measure reconstruction, dictionaries, concept detection, cost and loss recovered, and write evaluation/.

    Args:
        run: A run with trained ensembles and its activation cache.
        stages: Which of `EVALUATION_STAGES`; cost needs the reconstruction.
        progress: Told about every block.
        device: Where to encode; the one in the settings if not given.

    Raises:
        UserError: If nothing is trained yet, or the activation cache or the language model is gone.
    """
    missing = [name for name in EVALUATION_STAGES if name in stages and not run.is_finished(f"evaluate/{name}")]
    if CONTROL_STAGE in missing and run.is_finished("evaluate/reconstruction") and not run.activations.exists():
        # A run of an earlier version, whose activations may be gone: everything else of it can still be used.
        missing.remove(CONTROL_STAGE)
        progress(Tick("measure random stages", 0, 0, note=f"{CONTROL_GONE} {run.activations} is gone."))
    if not missing:
        return
    device = resolve_device(device or run.settings.training.device)
    ensembles = trained_ensembles(run, device)
    measures: dict[str, Callable[[Run, Ensembles, str, Progress], None]] = {
        "reconstruction": _reconstruction,
        "dictionary": _dictionary,
        "concepts": evaluate_concepts,
        "cost": _cost,
        "loss": _loss,
        CONTROL_STAGE: _control,
    }
    for name in missing:
        started = time.perf_counter()
        measures[name](run, ensembles, device, progress)
        files = [run.evaluation(name), *map(run.evaluation_table, TABLES.get(name, ()))]
        run.finish(f"evaluate/{name}", {"seconds": time.perf_counter() - started, "device": device}, files=files)


def _reconstruction(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    figures, densities = measure_reconstruction(
        ensembles,
        cache.read,
        cache.rows,
        **_drawn(run, cache.rows),
        device=device,
        progress=progress,
    )
    write_table(run.evaluation_table("reconstruction"), densities)
    write_json(run.evaluation("reconstruction"), figures)


def _drawn(run: Run, rows: int) -> dict[str, Any]:
    """What the bootstrap draws from held-out activations, how often, and with which seed."""
    return {
        "document_T": held_out_documents(run, rows),
        "stretch": run.settings.model.context,
        "bootstrap": run.settings.evaluation.bootstrap,
        "seed": run.settings.training.seed,
    }


def held_out_documents(run: Run, rows: int) -> NDArray[np.int64] | None:
    """The number of the document that each row of the evaluation cache is of [rows]; None where there are no texts.

    A long document may lie there in several passages.
    """
    if not run.corpus.texts.exists():
        return None
    document_T = np.repeat(*_held_out_passages(run))
    return document_T if len(document_T) == rows else None


def _held_out_passages(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the number of the document of each held-out passage, its tokens); in older runs each is one of its own."""
    table = read_table(run.corpus.texts)
    held_out = table[table["held_out"]]
    numbers = held_out["document"].to_numpy(np.int64) if "document" in held_out else np.arange(len(held_out))
    return numbers, held_out["tokens"].to_numpy(np.int64)


def _dictionary(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    figures = measure_dictionary(
        ensembles, cache.read, cache.rows, seed=run.settings.training.seed, device=device, progress=progress
    )
    bag = figures["ensembles"].get(REPEATS, {}).get("member_stability")
    # The single SAE, trained as often as the bag has members, which are such trainings.
    figures["single_retrained"] = bag if members_are_retrains(run.settings) else None
    write_json(run.evaluation("dictionary"), figures)


def _cost(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    acts_BD = cache.read(0, min(TIMED_TOKENS, cache.rows)).to(device)
    progress(Tick("measure cost", 0, len(ensembles), unit="ensembles"))
    write_json(run.evaluation("cost"), measure_cost(run, ensembles, acts_BD))
    progress(Tick("measure cost", len(ensembles), len(ensembles), unit="ensembles"))


def _loss(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    reason = _no_loss(run)
    if reason:
        write_json(run.evaluation("loss"), undefined(reason))
        return
    write_json(run.evaluation("loss"), _recovered(run, ensembles, device, progress))


def _recovered(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> dict:
    settings = run.settings
    try:
        model = SubstitutedModel.load(settings.model, device=device)
    except UnpredictingError as error:
        return undefined(str(error))
    return measure_loss(
        ensembles,
        model,
        [passage.text for passage in passages(run, held_out=True)],
        evaluation_cache(run).mean_D,
        tokens=settings.evaluation.loss_tokens,
        documents=_held_out_passages(run)[0].tolist(),
        bootstrap=settings.evaluation.bootstrap,
        seed=settings.training.seed,
        progress=progress,
    )


def _control(run: Run, ensembles: Ensembles, device: str, progress: Progress) -> None:
    cache = evaluation_cache(run)
    facts, controls = measure_controls(
        ensembles,
        cache.read,
        cache.rows,
        lambda: training_sample(run, SAMPLE_ROWS),
        **_drawn(run, cache.rows),
        device=device,
        progress=progress,
    )
    if controls and _no_loss(run) is None:
        facts = with_loss(facts, _recovered(run, controls, device, progress))
    write_json(run.evaluation(CONTROL_STAGE), facts)


def _no_loss(run: Run) -> str | None:
    """Why the loss recovered is not defined, or not wanted."""
    if not run.corpus.texts.exists():
        return "The activations come from no language model."
    if run.settings.evaluation.loss_tokens == 0:
        return "It was left out (evaluation.loss_tokens is 0)."
    return None
