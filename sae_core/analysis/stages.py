"""All stages of a run in the order of work, and which of them are done."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.analysis.atoms.stage import ATOMS, DICTIONARY, ENERGY, LENS, MAP
from sae_core.analysis.concepts.stage import CONCEPTS
from sae_core.analysis.cost.stage import COST
from sae_core.analysis.index.stage import INDEX, TOGETHER, TOKENS
from sae_core.analysis.reconstruction.stage import CONTROL, LOSS, RECONSTRUCTION
from sae_core.analysis.similarity.stage import FAMILIES, MATCH, NEAREST
from sae_core.analysis.stability.stage import STABILITY
from sae_core.analysis.suggestions.stage import SUGGEST
from sae_core.analysis.truth.stage import TRUTH
from sae_core.foundation.run import Run
from sae_core.foundation.stages import Stage
from sae_core.training.declared import TRAIN

STAGES: tuple[Stage[Any], ...] = (
    *(CORPUS, ACTIVATIONS, TRAIN),
    *(INDEX, TOKENS, TOGETHER, MATCH, NEAREST, FAMILIES, LENS, MAP, ATOMS, SUGGEST, ENERGY),
    *(RECONSTRUCTION, DICTIONARY, CONCEPTS, COST, LOSS, CONTROL, TRUTH, STABILITY),
)
"""Every stage, behind those that it needs."""


def stages_of(command: str) -> tuple[Stage[Any], ...]:
    """What a command does, in order."""
    return tuple(stage for stage in STAGES if stage.command == command)


PREPARING = stages_of("index")
"""What prepares an ensemble for looking."""
EVALUATIONS = tuple(stage.name for stage in stages_of("evaluate"))
"""Names of the evaluations that a run gets unless it is asked for others."""


def evaluations(names: Collection[str]) -> list[Stage[Any]]:
    """Evaluations by their names, with those that they need, in the order of work."""
    asked = [stage for stage in STAGES if stage.key == f"evaluate/{stage.name}" and stage.name in names]
    wanted = {stage.key for one in asked for stage in (one, *one.needs)}
    return [stage for stage in STAGES if stage.key in wanted and stage.key.startswith("evaluate/")]


def is_done(run: Run, command: str) -> bool:
    """Whether a run has everything that a command leaves behind in it."""
    return all(stage.is_finished(run) for stage in stages_of(command) if stage.kept)
