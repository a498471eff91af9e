"""Send the training curves to TensorBoard, Weights & Biases or trackio while a run is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from sae_core.foundation.errors import UserError
from sae_core.foundation.machine import launch
from sae_core.foundation.progress import Progress, Tick

PROJECT = "sae-ensemble"


class Tracker(Protocol):
    """Somewhere that curves are drawn."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add a point to each of some curves.

        Args:
            figures: The values by the names of their curves; slashes group the names.
            step: The training step of this stage, counted from 1.
        """

    def close(self) -> None:
        """Write what is not written yet."""


class _TensorBoard:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """Curves have steps of their own, since every stage counts from 1 and the steps of a run may only rise."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(project=PROJECT, name=folder.name, dir=str(folder), config=dict(settings))

    def log(self, figures: Mapping[str, float], step: int) -> None:
        groups = {name.rpartition("/")[0] for name in figures}
        for group in groups:
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._run.log({**figures, **{f"{group}/step": step for group in groups}})

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import trackio

        self._run = trackio.init(project=PROJECT, name=folder.name, config=dict(settings), resume="allow", embed=False)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}
"""The trackers by name, which is also that of the package they need; each is made of a folder and the settings."""


def chosen_trackers(names: str | None) -> list[str]:
    """The names in a list such as ``tensorboard,wandb``, checked.

    Raises:
        UserError: If a name is unknown, stands twice, or its package is not installed.
    """
    chosen = [name.strip() for name in names.split(",")] if names is not None else []
    for place, name in enumerate(chosen):
        if name not in TRACKERS:
            raise UserError(f"Unknown tracker {name!r}; choose from {', '.join(TRACKERS)}.")
        if name in chosen[:place]:
            raise UserError(f"The tracker {name} is named twice; name it once.")
        if find_spec(name) is None:
            raise UserError(f"The package {name} is not installed; run pip install {name}.")
    return chosen


@contextmanager
def tracked(progress: Progress, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> Iterator[Progress]:
    """Yield a progress callback that also tells trackers the curves; of several processes only the first one's does.

    A tracker that fails is told nothing more, and a note says so: no training ends for the sake of a curve.

    Args:
        progress: Told everything, too.
        names: As `chosen_trackers` returns them.
        folder: The run, or the folder of several runs; its name is the name of what is tracked.
        settings: What the trackers show beside the curves.
    """
    trackers: dict[str, Tracker] = {}

    def attempt(name: str, deed: Callable[[], Any]) -> Any:
        try:
            return deed()
        except Exception as error:
            trackers.pop(name, None)
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            progress(
                Tick("track", 0, 0, note=f"The tracker {name} failed ({reason}); the training goes on without it.")
            )

    def told(tick: Tick) -> None:
        for row in tick.rows:
            figures = dict(row)
            member, step = int(figures.pop("member")), int(figures.pop("step"))
            curves = {f"{tick.stage}/member {member}/{name}": value for name, value in figures.items()}
            for name, tracker in list(trackers.items()):
                attempt(name, lambda: tracker.log(curves, step))  # noqa: B023
        progress(tick)

    for name in () if launch.is_another() else names:
        made = attempt(name, lambda: TRACKERS[name](folder, settings))  # noqa: B023
        if made is not None:
            trackers[name] = made
    try:
        yield told if trackers else progress
    finally:
        for name, tracker in list(trackers.items()):
            attempt(name, tracker.close)
