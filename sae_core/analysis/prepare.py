"""Prepare a trained run for looking: index, match, map and describe every ensemble; what is finished is skipped.

Several processes share the index, which is most of the work; the first one does the rest while the others wait.
"""

from __future__ import annotations

import time
from dataclasses import replace

from sae_core.activations.corpus import Corpus
from sae_core.activations.stages import CORPUS
from sae_core.analysis.shared.jobs import EnsembleJob
from sae_core.analysis.stages import PREPARING
from sae_core.ensembles.ensemble import load_ensemble
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.run import Run
from sae_core.foundation.stages import Stage
from sae_core.training.processes import ALONE, Processes


def prepare_run(run: Run, *, device: str = "auto", progress: Progress = silent, processes: Processes = ALONE) -> None:
    """Prepare every ensemble of a run, and record its stages as ``index/<name>``, ``match/<name>`` and so on.

    Args:
        run: A run with trained ensembles, its corpus and (for the index) its activations.
        device: Where encoders run: auto, cpu, cuda or cuda:N.
        progress: Told what is being done.
        processes: Those that prepare it together, each of which calls this; all must see the run folder.

    Raises:
        UserError: If a file that is needed is missing or damaged.
    """
    corpus: Corpus | None = None
    for folder in run.ensembles():
        finished = processes.of_first(*(run.is_finished(stage.key_of(folder.name)) for stage in PREPARING))
        missing = [stage for stage, there in zip(PREPARING, finished, strict=True) if not there]
        if not missing:
            continue
        place = str(processes.place(device))
        corpus = corpus or processes.together(lambda: Corpus.open(run))
        d_in = CORPUS.facts(run).get("d_in")
        ensemble = processes.together(lambda: load_ensemble(folder, device=place, d_in=d_in))  # noqa: B023
        job = EnsembleJob(run, folder, corpus, ensemble, processes)
        for stage in missing:
            _finish_stage(job, stage, progress)


def _finish_stage(job: EnsembleJob, stage: Stage[EnsembleJob], progress: Progress) -> None:
    name, began = job.folder.name, time.perf_counter()

    def tell(tick: Tick) -> None:
        progress(replace(tick, stage=f"{stage.name} {name}"))

    if stage.shared:
        stage.shared(job, tell)
    job.processes.first(lambda: stage.carry_out(job.run, job, tell, name=name, began=began))
