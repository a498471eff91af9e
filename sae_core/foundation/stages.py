"""A stage: one piece of the work on a run, declared beside the code that does it.

A declaration imports that code when the work is done and not before: who asks what is finished does not wait for torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from sae_core.foundation.progress import Progress
from sae_core.foundation.run import Run

Job = TypeVar("Job")
"""What a stage works with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What decides how much work a stage of one ensemble is; `Stage.cost` makes one number of them.

    Attributes:
        widths: Features of each member.
        active: Features of each member that fire on a token.
        d_in: Dimension of the activations, D.
        vocabulary: Tokens that the model knows.
        read: Tokens that the model reads for the caches.
        trained: Tokens that each member is trained on.
        indexed: Tokens of the indexed corpus.
        evaluated: Held-out tokens.
        substituted: Tokens whose reconstructions are put back into the model.
        detected: Texts on which concepts are detected.
    """

    widths: tuple[int, ...]
    active: tuple[int, ...]
    d_in: int
    vocabulary: int = 0
    read: int = 0
    trained: int = 0
    indexed: int = 0
    evaluated: int = 0
    substituted: int = 0
    detected: int = 0

    @property
    def features(self) -> int:
        """Features of all members, M."""
        return sum(self.widths)

    @property
    def parameters(self) -> int:
        """Weights of all encoders."""
        return self.features * self.d_in

    @property
    def entries(self) -> int:
        """Activations of the indexed corpus that are not 0."""
        return self.indexed * sum(self.active)

    @property
    def cells(self) -> int:
        """Pairs of features of different members."""
        return (self.features**2 - sum(width**2 for width in self.widths)) // 2


def once(run: Run) -> Sequence[str]:
    """Of a stage that is done once for the whole run: the one name is empty."""
    return ("",)


def each_method(run: Run) -> Sequence[str]:
    """Of a stage that is done for every method that the settings name."""
    return run.settings.training.methods


def each_ensemble(run: Run) -> Sequence[str]:
    """Of a stage that is done for every trained ensemble."""
    return [folder.name for folder in run.ensembles()]


def _nothing(run: Run, name: str) -> Iterable[Path]:
    return ()


def _never(run: Run, name: str) -> str:
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[Job]):
    """One piece of the work on a run.

    Attributes:
        key: How it is recorded in run.json; ``{}`` stands for the ensemble or method that it is done for.
        command: The command that does it.
        cost: The work that it is, in units of its own: twice as many take about twice as long.
        needs: Stages that are done before it.
        of: What it is done for in a run.
        do: Does it and returns what is worth recording; None where one pass does several stages at once.
        shared: The part of it that all processes do together, before the first one does the rest.
        files: What it writes, by run and by the name that it is done for; some of it may be missing.
        skipped: Why there is nothing to do for a name; empty where there is.
        reads_activations: Whether it reads the activation cache.
        kept: Whether its files stay; those of the activations may be deleted when everything is trained.
    """

    key: str
    command: str
    cost: Callable[[Sizes], float]
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
        """What people call it: ``index`` of ``index/{}``, ``cost`` of ``evaluate/cost``."""
        return self.key.removeprefix("evaluate/").removesuffix("/{}")

    def key_of(self, name: str) -> str:
        """How it is recorded for an ensemble or method."""
        return self.key.format(name)

    def is_finished(self, run: Run) -> bool:
        """Whether it is done for everything in a run that it is to be done for."""
        return all(run.is_finished(self.key_of(name)) for name in self.of(run))

    def carry_out(
        self, run: Run, job: Job, progress: Progress, *, name: str = "", began: float | None = None, **facts: Any
    ) -> None:
        """Do it and record it, with its seconds.

        Args:
            run: The run.
            job: What it works with.
            progress: Told how far it is.
            name: The ensemble that it is done for.
            began: When `shared` began, by `time.perf_counter`.
            facts: What else is recorded.
        """
        assert self.do is not None, self.key
        started = time.perf_counter() if began is None else began
        why = self.skipped(run, name)
        found = {"skipped": why} if why else self.do(job, progress)
        self.record(run, {"seconds": round(time.perf_counter() - started, 3), **facts, **found}, name=name)

    def record(self, run: Run, facts: Mapping[str, Any], *, name: str = "") -> None:
        """Record it as finished, with those of its files that are there."""
        run.finish(self.key_of(name), facts, files=[file for file in self.files(run, name) if file.exists()])
