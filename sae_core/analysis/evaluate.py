"""All evaluations of a run, stage by stage; what is finished is skipped, what is missing is measured."""

from __future__ import annotations

from collections.abc import Collection

from sae_core.analysis.reconstruction.stage import CONTROL, RECONSTRUCTION
from sae_core.analysis.shared.jobs import Evaluation
from sae_core.analysis.shared.trained import trained_ensembles
from sae_core.analysis.stages import EVALUATIONS, evaluations
from sae_core.foundation.machine.device import resolve_device
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run

CONTROL_GONE = "What random stages would explain in the place of trained ones cannot be measured:"


def evaluate_run(
    run: Run,
    *,
    stages: Collection[str] = EVALUATIONS,
    progress: Progress = silent,
    device: str | None = None,
) -> None:
    """Measure reconstruction, dictionaries, concept detection, cost and loss recovered, and write evaluation/.

    Args:
        run: A run with trained ensembles and its activation cache.
        stages: Names of evaluations; those that they need are measured, too.
        progress: Told about every block.
        device: Where to encode; the one in the settings if not given.

    Raises:
        UserError: If nothing is trained yet, or the activation cache or the language model is gone.
    """
    missing = [stage for stage in evaluations(stages) if not stage.is_finished(run)]
    if CONTROL in missing and RECONSTRUCTION.is_finished(run) and not run.activations.exists():
        # A run of an earlier version, whose activations may be gone: everything else of it can still be used.
        missing.remove(CONTROL)
        progress(Tick("measure random stages", 0, 0, note=f"{CONTROL_GONE} {run.activations} is gone."))
    if not missing:
        return
    device = resolve_device(device or run.settings.training.device)
    job = Evaluation(run, trained_ensembles(run, device), device)
    for stage in missing:
        stage.carry_out(run, job, progress, device=device)
