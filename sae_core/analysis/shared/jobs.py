"""Open the trained ensembles that a stage of the analysis works on: one ensemble, or all of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_core.foundation.files.whole_files import read_object
from sae_core.foundation.folders import EnsembleFolder
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import Run
from sae_core.foundation.stages import Sizes, Stage, each_ensemble
from sae_core.training.declared import TRAIN

if TYPE_CHECKING:
    from sae_core.activations.corpus import Corpus
    from sae_core.ensembles.ensemble import Ensemble
    from sae_core.training.processes import Processes


@dataclass(frozen=True, slots=True)
class EnsembleJob:
    """The input of every stage of one ensemble."""

    run: Run
    folder: EnsembleFolder
    corpus: Corpus
    ensemble: Ensemble
    processes: Processes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The input of every evaluation: the run's ensembles, on the device that encodes."""

    run: Run
    ensembles: Mapping[str, Ensemble]
    device: str


def of_ensemble(
    name: str,
    do: Callable[[EnsembleJob, Progress], Mapping[str, Any]],
    files: Callable[[EnsembleFolder], Iterable[Path]],
    *,
    cost: Callable[[Sizes], float],
    needs: tuple[Stage[Any], ...] = (TRAIN,),
    **more: Any,
) -> Stage[EnsembleJob]:
    """Declare a stage that prepares each trained ensemble for browsing, recorded as ``<name>/<ensemble>``.

    Args:
        name: The stage's name.
        do: See `Stage`.
        files: Returns the files that the stage writes into the ensemble's folder.
        cost: See `Stage`.
        needs: See `Stage`.
        more: See `Stage`.
    """

    def written(run: Run, ensemble: str) -> Iterable[Path]:
        return files(run.ensemble(ensemble))

    return Stage(
        key=f"{name}/{{}}", command="index", cost=cost, needs=needs, of=each_ensemble, do=do, files=written, **more
    )


def evaluation(
    name: str,
    do: Callable[[Evaluation, Progress], Mapping[str, Any]] | None,
    *,
    cost: Callable[[Sizes], float],
    needs: tuple[Stage[Any], ...] = (TRAIN,),
    tables: tuple[str, ...] = (),
    command: str = "evaluate",
    **more: Any,
) -> Stage[Evaluation]:
    """Declare an evaluation of all ensembles, recorded as ``evaluate/<name>``.

    Args:
        name: The evaluation's name, which is also the name of its JSON file.
        do: See `Stage`.
        cost: See `Stage`.
        needs: See `Stage`.
        tables: Names of the tables that the evaluation writes beside that file.
        command: The command that runs the evaluation.
        more: See `Stage`.
    """

    def written(run: Run, _: str) -> Iterable[Path]:
        return [run.evaluation(name), *map(run.evaluation_table, tables)]

    return Stage(key=f"evaluate/{name}", command=command, cost=cost, needs=needs, do=do, files=written, **more)


def measured(run: Run, stage: Stage[Evaluation]) -> dict[str, Any]:
    """The content of an evaluation's JSON file; empty if the run was not measured.

    Raises:
        UserError: If the file is damaged.
    """
    path = run.evaluation(stage.name)
    return read_object(path) if path.exists() else {}
