"""Define a stage: one piece of the work on a run, declared beside the code that does the work.

A declaration imports this code only when the stage runs, so a query for finished stages does not wait for torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sae_core.foundation.methods import trained_by
from sae_core.foundation.progress import Progress
from sae_core.foundation.run import Run

Job = TypeVar("Job")
"""The input of a stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes that decide what a stage costs for one ensemble; `runs.planning` makes them from settings.

    An evaluation of a run costs the sum over its ensembles.

    Attributes:
        widths: Number of features of each member.
        active: Number of active features per token of each member.
        d_in: Dimension of the activations, D.
        itemsize: Bytes of a number in the activation cache.
        vocabulary: Number of tokens in the model's vocabulary.
        model_bytes: Bytes of the model's weights.
        read: Number of tokens that the model reads for the caches.
        trained: Number of tokens that each member is trained on.
        steps: Number of training steps of each member.
        indexed: Number of tokens of the indexed corpus.
        evaluated: Number of held-out tokens.
        substituted: Number of tokens whose reconstructions are put back into the model.
        detected: Number of tokens in the texts for detecting concepts.
        staged: Whether members read the residual of earlier ones.
        ensembles: Number of ensembles of the run, among which work that is done once is divided.
        run_flops: Operations to encode and reconstruct one activation with all members.
        train_flops: Operations of the whole training.
        token_flops: Operations of the model to read one token up to its layer.
    """

    widths: tuple[int, ...]
    active: tuple[int, ...]
    d_in: int
    itemsize: int = 2
    vocabulary: int = 0
    model_bytes: int = 0
    read: int = 0
    trained: int = 0
    steps: int = 0
    indexed: int = 0
    evaluated: int = 0
    substituted: int = 0
    detected: int = 0
    staged: bool = False
    ensembles: int = 1
    run_flops: int = 0
    train_flops: int = 0
    token_flops: int = 0

    @property
    def features(self) -> int:
        """Number of features of all members, M."""
        return sum(self.widths)

    @property
    def parameters(self) -> int:
        """Number of weights of all encoders."""
        return self.features * self.d_in

    @property
    def entries(self) -> int:
        """Number of coefficients of the indexed corpus that are not 0."""
        return self.indexed * sum(self.active)

    @property
    def cells(self) -> int:
        """Number of pairs of features of different members."""
        return (self.features**2 - sum(width**2 for width in self.widths)) // 2

    @property
    def products(self) -> int:
        """Number of pairs of coefficients of different members on the same token of the indexed corpus."""
        return self.indexed * (sum(self.active) ** 2 - sum(k**2 for k in self.active)) // 2


def once(run: Run) -> Sequence[str]:
    """The names for a stage that runs once per run: a single empty name."""
    return ("",)


def each_method(run: Run) -> Sequence[str]:
    """The names for a stage that runs for every method in the settings that trains something."""
    return trained_by(run.settings)


def each_ensemble(run: Run) -> Sequence[str]:
    """The names for a stage that runs for every trained ensemble."""
    return [folder.name for folder in run.ensembles()]


def _nothing(run: Run, name: str) -> Iterable[Path]:
    return ()


def _never(run: Run, name: str) -> str:
    return ""


def _none(sizes: Sizes) -> float:
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[Job]):
    """One piece of the work on a run.

    Attributes:
        key: The stage's entry in run.json; ``{}`` stands for the ensemble or method.
        command: The command that runs the stage.
        cost: Seconds on two cores of a laptop (AMD EPYC 7003), about, beside those of `flops` and `moved`, and without
            what a process does once, such as imports. A plan measures how much longer they take.
        flops: Operations of dense products.
        moved: Bytes that dense tables and weights move between memory and processor.
        memory: Bytes that the stage holds beside libraries and the weights of ensembles, at most.
        written: Bytes of its files, about.
        needs: The stages that run before this one.
        of: Returns the names (ensembles or methods) for which the stage runs in a run.
        do: Runs the stage and returns the facts to record; None if one pass runs several stages at once.
        shared: The part that all processes do together, before the first process does the rest.
        files: Returns the files that the stage writes, by run and name; some may be missing.
        skipped: Returns the reason why the stage has nothing to do for a name; empty if it has work.
        reads_activations: Whether the stage reads the activation cache.
        kept: Whether the files stay; the activation files may be deleted when everything is trained.
    """

    key: str
    command: str
    cost: Callable[[Sizes], float] = _none
    flops: Callable[[Sizes], float] = _none
    moved: Callable[[Sizes], float] = _none
    memory: Callable[[Sizes], float] = _none
    written: Callable[[Sizes], float] = _none
    needs: tuple[Stage[Any], ...] = ()
    of: Callable[[Run], Sequence[str]] = once
    do: Callable[[Job, Progress], Mapping[str, Any]] | None = None
    shared: Callable[[Job, Progress], None] | None = None
    files: Callable[[Run, str], Iterable[Path]] = _nothing
    skipped: Callable[[Run, str], str] = _never
    reads_activations: bool = False
    kept: bool = True

    @property
    def name(self) -> str:
        """The stage's name for people: ``index`` for ``index/{}``, ``cost`` for ``evaluate/cost``."""
        return self.key.removeprefix("evaluate/").removesuffix("/{}")

    def key_of(self, name: str) -> str:
        """The entry in run.json for an ensemble or method."""
        return self.key.format(name)

    def facts(self, run: Run, name: str = "") -> dict[str, Any]:
        """What the stage recorded in a run, for an ensemble or method; empty if it is not finished."""
        return run.facts(self.key_of(name))

    def is_finished(self, run: Run) -> bool:
        """Whether the stage is finished for all its names in a run."""
        return all(run.is_finished(self.key_of(name)) for name in self.of(run))

    def carry_out(
        self, run: Run, job: Job, progress: Progress, *, name: str = "", began: float | None = None, **facts: Any
    ) -> None:
        """Run the stage and record it with its seconds.

        Args:
            run: The run.
            job: The input of the stage.
            progress: Told the work done.
            name: The ensemble.
            began: The time at which `shared` began, by `time.perf_counter`.
            facts: Further facts to record.
        """
        assert self.do is not None, self.key
        started = time.perf_counter() if began is None else began
        why = self.skipped(run, name)
        found = {"skipped": why} if why else self.do(job, progress)
        self.record(run, {"seconds": round(time.perf_counter() - started, 3), **facts, **found}, name=name)

    def record(self, run: Run, facts: Mapping[str, Any], *, name: str = "") -> None:
        """Record the stage as finished, with its existing files."""
        run.finish(self.key_of(name), facts, files=[file for file in self.files(run, name) if file.exists()])
