"""The evaluations of how well ensembles reconstruct, what that does to the model, and what random stages would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sae_core.analysis.shared.jobs import Evaluation, evaluation
from sae_core.foundation.files.whole_files import write_json, write_table
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import Run
from sae_core.foundation.stages import Sizes

if TYPE_CHECKING:
    from sae_core.ensembles.ensemble import Ensemble


def _reconstruction(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.activations.harvest import evaluation_cache
    from sae_core.analysis.reconstruction.held_out import drawn
    from sae_core.analysis.reconstruction.reconstruction import measure_reconstruction

    run, cache = job.run, evaluation_cache(job.run)
    figures, densities = measure_reconstruction(
        job.ensembles, cache.read, cache.rows, **drawn(run, cache.rows), device=job.device, progress=progress
    )
    write_table(run.evaluation_table(RECONSTRUCTION.name), densities)
    write_json(run.evaluation(RECONSTRUCTION.name), figures)
    return {}


def _loss(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.analysis.reconstruction.loss import undefined

    reason = _no_loss(job.run)
    found = undefined(reason) if reason else _recovered(job, job.ensembles, progress)
    write_json(job.run.evaluation(LOSS.name), found)
    return {}


def _recovered(job: Evaluation, ensembles: Mapping[str, Ensemble], progress: Progress) -> dict[str, Any]:
    from sae_core.activations.harvest import evaluation_cache
    from sae_core.activations.origins.language_model.kept_passages import passages
    from sae_core.activations.origins.language_model.left_out import LeftOut
    from sae_core.activations.origins.language_model.substitution import SubstitutedModel, UnpredictingError
    from sae_core.analysis.reconstruction.held_out import held_out_passages
    from sae_core.analysis.reconstruction.loss import measure_loss, undefined

    run, settings = job.run, job.run.settings
    try:
        model = SubstitutedModel.load(settings.model, device=job.device, left_out=LeftOut.of(run))
    except UnpredictingError as error:
        return undefined(str(error))
    return measure_loss(
        ensembles,
        model,
        [passage.text for passage in passages(run, held_out=True)],
        evaluation_cache(run).mean_D,
        tokens=settings.evaluation.loss_tokens,
        documents=held_out_passages(run)[0].tolist(),
        bootstrap=settings.evaluation.bootstrap,
        seed=settings.training.seed,
        progress=progress,
    )


def _control(job: Evaluation, progress: Progress) -> Mapping[str, Any]:
    from sae_core.activations.harvest import evaluation_cache
    from sae_core.analysis.reconstruction.control import measure_controls, with_loss
    from sae_core.analysis.reconstruction.held_out import drawn
    from sae_core.analysis.shared.random_twin import SAMPLE_ROWS
    from sae_core.analysis.shared.sample import training_sample

    run, cache = job.run, evaluation_cache(job.run)
    facts, controls = measure_controls(
        job.ensembles,
        cache.read,
        cache.rows,
        lambda: training_sample(run, SAMPLE_ROWS),
        **drawn(run, cache.rows),
        device=job.device,
        progress=progress,
    )
    if controls and _no_loss(run) is None:
        facts = with_loss(facts, _recovered(job, controls, progress))
    write_json(run.evaluation(CONTROL.name), facts)
    return {}


def _no_loss(run: Run) -> str | None:
    """Why the loss recovered is not defined, or not wanted."""
    if not run.settings.origin.reads_text:
        return "The activations come from no language model."
    if run.settings.evaluation.loss_tokens == 0:
        return "It was left out (evaluation.loss_tokens is 0)."
    return None


def _loss_cost(sizes: Sizes) -> float:
    """Predictions are scored as they are, with two ablations, and with the first members of every ensemble."""
    passes = len(sizes.widths) + 3 / sizes.ensembles
    return 5e-9 * sizes.substituted * passes * sizes.vocabulary


def _loss_flops(sizes: Sizes) -> float:
    # Later passes run the blocks behind the layer alone; about as many stand before it.
    passes = len(sizes.widths) + 3 / sizes.ensembles
    return sizes.substituted * (passes * (2 * sizes.d_in * sizes.vocabulary + sizes.token_flops) + sizes.run_flops)


def _loss_memory(sizes: Sizes) -> float:
    return sizes.model_bytes + 16 * sizes.vocabulary * min(sizes.substituted, 4096)


def _held_out_cost(sizes: Sizes) -> float:
    return 1e-8 * sizes.evaluated * sizes.d_in * (1 + len(sizes.widths))


RECONSTRUCTION = evaluation(
    "reconstruction",
    _reconstruction,
    cost=_held_out_cost,
    flops=lambda sizes: sizes.evaluated * sizes.run_flops,
    written=lambda sizes: 6 * sizes.features,
    tables=("reconstruction",),
)
LOSS = evaluation("loss", _loss, cost=_loss_cost, flops=_loss_flops, memory=_loss_memory)
CONTROL = evaluation(
    "control",
    _control,
    cost=lambda sizes: sizes.staged * (2 * _held_out_cost(sizes) + _loss_cost(sizes)),
    flops=lambda sizes: sizes.staged * (2 * sizes.evaluated * sizes.run_flops + _loss_flops(sizes)),
    memory=lambda sizes: sizes.staged * (_loss_memory(sizes) + 8 * 4096 * max(sizes.widths)),
    needs=(RECONSTRUCTION,),
)
