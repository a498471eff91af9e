"""The stages that gather what a run works on: its corpus, and the activations. `harvest` does both in one pass."""

from __future__ import annotations

from typing import Any

from sae_core.foundation.stages import Sizes, Stage


def _writing(sizes: Sizes) -> float:
    """Two windows of activations that wait to be written, and a shard: as it is stored, and for its mean."""
    from sae_core.activations.store.cache import SHARD_BYTES

    numbers = sizes.d_in * sizes.read
    windows, shard = 2 * min(2**26, 4 * numbers), min(SHARD_BYTES // 4, numbers // 8)
    return windows + (sizes.itemsize + 16) * shard


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
    memory=lambda sizes: sizes.model_bytes + _writing(sizes),
    written=lambda sizes: sizes.read * sizes.d_in * sizes.itemsize / sizes.ensembles,
    needs=(CORPUS,),
    kept=False,
)
