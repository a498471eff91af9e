"""The stages that gather what a run works on: its corpus, and the activations. `harvest` does both in one pass."""

from __future__ import annotations

from typing import Any

from sae_core.foundation.stages import Stage

CORPUS: Stage[Any] = Stage(key="corpus", command="train", cost=lambda sizes: sizes.read)
ACTIVATIONS: Stage[Any] = Stage(
    key="activations", command="train", cost=lambda sizes: sizes.read, needs=(CORPUS,), kept=False
)
