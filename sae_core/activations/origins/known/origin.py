"""The origin of activations that are drawn from a known dictionary: no text, but the truth is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sae_core.foundation.origin import Origin
from sae_core.foundation.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from sae_core.activations.origins.known.drawing import KnownStream
    from sae_core.foundation.run import Run
    from sae_core.foundation.settings.run_settings import RunSettings


class Known(Origin):
    """A row is an activation that stands for itself; the settings ``truth`` describe the dictionary."""

    kind: Literal["known"] = "known"
    """Activations are drawn from a known dictionary, which the settings truth describe."""
    title: ClassVar[str] = "a known dictionary"
    old_name: ClassVar[str] = "known"
    shows_rows: ClassVar[bool] = False
    rows_are_independent: ClassVar[bool] = True
    has_truth: ClassVar[bool] = True

    def described(self, settings: RunSettings) -> str:
        """Its features and dimensions."""
        features, dimension = settings.truth.features, settings.truth.dimension
        return f"activations drawn from {self.title} of {features:,} features in {dimension:,} dimensions"

    def decided_by(self, settings: RunSettings) -> Any:
        """The dictionary and its seed; the device, as everywhere."""
        return settings.truth.model_copy(update={"seed": settings.truth_seed}).model_dump(mode="json")

    def data_of(self, run: Run) -> Any:
        """The dictionary and how many activations were drawn."""
        return self.decided_by(run.settings), run.settings.data.train_tokens

    def gather(self, runs: Sequence[Run], progress: Progress) -> None:
        """Draw the activations, run by run."""
        from sae_core.activations.origins.known.drawing import write_known

        for run in runs:
            write_known(run, progress=progress)

    def stream(self, run: Run, cache: Callable[[], Any], device: str) -> KnownStream:
        """The activations, drawn anew in every pass."""
        from sae_core.activations.origins.known.drawing import KnownStream, known_activations

        return KnownStream(known_activations(run, "train"), run.settings.data.train_tokens)

    def drawn(self, run: Run, rows: int) -> Tensor | None:
        """The first training rows, if the run streams them."""
        from sae_core.activations.origins.known.drawing import known_activations

        if run.settings.data.storage != "stream":
            return None
        return known_activations(run, "train").read(0, min(rows, run.settings.data.train_tokens))
