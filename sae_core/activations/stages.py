"""The stages that gather what a run works on: its corpus, and the activations. `harvest` does both in one pass."""

from __future__ import annotations

from typing import Any

from sae_core.foundation.stages import Stage

CORPUS: Stage[Any] = Stage(
    key="corpus",
    command="train",
    cost=lambda sizes: 8e-6 * sizes.read / sizes.ensembles,
    # A text, its tokens and what is known of it: some hundred bytes of objects for a passage.
    memory=lambda sizes: sizes.model_bytes + 20 * sizes.read,
    # The indexed tokens, all texts, and the way from the layer to the logits.
    written=lambda sizes: (
        (4 * sizes.indexed + 2 * sizes.read + 4 * sizes.d_in * (sizes.vocabulary + 2)) / sizes.ensembles
    ),
)
ACTIVATIONS: Stage[Any] = Stage(
    key="activations",
    command="train",
    cost=lambda sizes: 3e-6 * sizes.read / sizes.ensembles,
    flops=lambda sizes: sizes.read * sizes.token_flops / sizes.ensembles,
    memory=lambda sizes: sizes.model_bytes + 2**28,
    written=lambda sizes: sizes.read * sizes.d_in * sizes.itemsize / sizes.ensembles,
    needs=(CORPUS,),
    kept=False,
)
