"""What the command evaluate will take, evaluation by evaluation as `analysis.evaluate` does them for all ensembles.

Counted work times seconds of a unit of it, as in `index_stages`, which says whose seconds the constants are. Of SAEs
that several ensembles share, codes are found once.
"""

from __future__ import annotations

from collections.abc import Callable

from sae_core.analysis.atoms.dictionary import CONNECTIVITY_TOKENS
from sae_core.analysis.cost.cost import REPEATS, TIMED_TOKENS
from sae_core.analysis.reconstruction.reconstruction import IDENTITY_TOKENS
from sae_core.analysis.shared.random_twin import SAMPLE_ROWS
from sae_core.analysis.similarity.cosines import HELD_CELLS, SAMPLED
from sae_core.foundation.methods import REFERENCE
from sae_core.runs.planning.counts import Counted
from sae_core.runs.planning.index_stages import kept_memory
from sae_core.runs.planning.stages import Stage, Work
from sae_core.runs.planning.train_stages import is_shared
from sae_core.training.operations import FLOAT, SAEShape

CHECK, MOMENT, DENSE = 0.5, 2.7e-9, 6.0e-9
"""Reconstruction: seconds for intervals; a number of an activation, for each of ten passes that moments take, and four
for each member; a coefficient of the dense codes by which identities are checked."""
UNITE, WORD = 5.0e-10, 64
"""Dictionary: seconds to unite the features of two tokens, for so many of them in a word."""
DRAW = 8.0e-9
"""Dictionary: to draw a number of a random atom."""
PROBLEMS, FOUND, CUT = 13, 0.9, 0.75
"""Concepts: those of the embedded tasks, where all libraries have enough texts; the share of the pool that is found;
what cutting long texts leaves of the tokens that as many texts of the mean length have."""
FIT, WEIGH = 1.6e-3, 2.0e-7
"""Concepts: to fit a detector and draw intervals; to weigh a coefficient of a text for all problems."""
STEPS = 2
"""Concepts: numbers of features for which the first members of an ensemble are measured, too."""
SCORE = 4.0e-9
"""Loss: a logit of a token whose prediction is scored, besides the product."""
LOSS_START = 1.0
"""Loss: seconds to load the model once more."""
CONTROL_START = 0.05
"""Control: seconds to open the activations, also where no ensemble has stages."""
WHOLE_BATCH = 4096
"""Tokens whose logits exist at a time, about."""


def stages_of_evaluating(work: Work) -> list[Stage]:
    """Everything that the command evaluate does, in order."""
    return [stage(work) for stage in EVALUATING.values()]


def controlled(work: Work) -> list[str]:
    """The methods with later stages, which are measured beside random ones."""
    return [method for method in work.settings.training.methods if work.stages_of(method) > 1]


def distinct_members(work: Work) -> list[SAEShape]:
    """The members of all ensembles without those that are another one's first member."""
    methods = work.settings.training.methods
    return [member for method in methods for member in work.members(method)[is_shared(work, method) :]]


def _encoding(work: Work, tokens: int, members: list[SAEShape]) -> float:
    return tokens * sum(work.rates.index[member.width] for member in members)


def _memory(work: Work) -> int:
    """What every evaluation holds: the weights of all ensembles, and what encoding takes."""
    weights = sum(FLOAT * member.parameters for members in work.ensembles() for member in members)
    return kept_memory(work) + weights


def _reconstruction(work: Work) -> Stage:
    tokens, members = work.evaluated, distinct_members(work)
    passes = 10 + 4 * sum(len(ensemble) for ensemble in work.ensembles())
    # Identities go through all members twice: as one wide SAE, and member by member.
    dense = 2 * min(IDENTITY_TOKENS, tokens) * sum(member.width for each in work.ensembles() for member in each)
    products = 4 * work.shape.d_model * dense
    return Stage(
        "evaluate reconstruction",
        "evaluate",
        seconds=_encoding(work, tokens, members)
        + products * work.rates.flop
        + (CHECK + passes * tokens * work.shape.d_model * MOMENT + dense * DENSE) * work.rates.pace.one,
        flops=tokens * sum(member.run_flops for member in members) + products,
        memory=_memory(work),
        disk=6 * sum(member.width for members in work.ensembles() for member in members),
    )


def _dictionary(work: Work) -> Stage:
    rates, d_in, members = work.rates, work.shape.d_model, distinct_members(work)
    tokens = min(work.evaluated, CONNECTIVITY_TOKENS)
    seconds, flops, held = _encoding(work, tokens, members), tokens * sum(member.run_flops for member in members), 0
    matched = 0
    for method, ensemble in zip(work.settings.training.methods, work.ensembles(), strict=True):
        counted = Counted(method, ensemble, tokens)
        features, pairs = counted.features, counted.pairs
        # Each pair of atoms once; random atoms beside as many; of members their pairs, and random ones beside those.
        sampled = min(SAMPLED, features) * features + bool(pairs) * sum(
            min(SAMPLED, member.width) * (features - member.width) for member in ensemble
        )
        products = features**2 // 2 + sampled + 2 * counted.cells
        seconds += 2 * d_in * products * rates.flop + pairs * rates.assign
        seconds += (features + bool(pairs) * len(ensemble) * features) * d_in * DRAW * rates.pace.one
        seconds += counted.entries * (features / WORD) * UNITE * rates.pace.one
        flops += 2 * d_in * products
        matched += bool(pairs)
        held = max(held, 2 * FLOAT * min(max(member.width for member in ensemble) ** 2, HELD_CELLS) * bool(pairs))
    return Stage(
        "evaluate dictionary",
        "evaluate",
        seconds=seconds + bool(matched) * rates.assign,  # of random atoms, the same for ensembles of one width
        flops=flops,
        memory=_memory(work) + held + 64 * 2**20,
        disk=4000,
    )


def _concepts(work: Work) -> Stage:
    settings, rates = work.settings.evaluation, work.rates
    if not work.settings.origin.labels_texts(work.settings):
        return Stage("evaluate concepts", "evaluate", seconds=0.0, memory=_memory(work))
    there = (work.rows + work.evaluated) / max(1.0, rates.tokens_per_text)
    texts = round(FOUND * min(settings.pool_texts, there))
    tokens = round(texts * CUT * min(settings.tokens_per_text, rates.tokens_per_text))
    # A random dictionary imitates a member; the first stage of a control is the trained one.
    controls = [work.members(method)[1:] for method in controlled(work)]
    members = [*distinct_members(work), *work.members(REFERENCE), *(member for each in controls for member in each)]
    counts, ensembles = len(set(settings.concept_features)), work.ensembles()
    several = sum(len(ensemble) for ensemble in ensembles if len(ensemble) > 1)
    fits = PROBLEMS * (2 * counts * (len(ensembles) + len(controls) + 1) + 2 + STEPS * several)
    coefficients = tokens * sum(Counted(REFERENCE, members, 1).active) // 2  # many are one feature's in a text
    return Stage(
        "evaluate concepts",
        "evaluate",
        seconds=tokens * rates.forward
        + _encoding(work, tokens, members)
        + (fits * FIT + coefficients * WEIGH) * rates.pace.one,
        flops=tokens * (work.token_flops + sum(member.run_flops for member in members)),
        memory=_memory(work) + work.model_bytes * (not work.machine.gpu) + 40 * coefficients + 2 * 10**8,
        disk=80_000,
    )


def _cost(work: Work) -> Stage:
    members = [member for ensemble in work.ensembles() for member in ensemble]
    tokens = (1 + REPEATS) * min(TIMED_TOKENS, work.evaluated)
    return Stage(
        "evaluate cost",
        "evaluate",
        seconds=_encoding(work, tokens, members),
        flops=tokens * sum(member.run_flops for member in members),
        memory=_memory(work),
        disk=7000,
    )


def _loss(work: Work) -> Stage:
    settings, rates, shape = work.settings, work.rates, work.shape
    tokens, members = settings.evaluation.loss_tokens, distinct_members(work)
    if not tokens:
        return Stage("evaluate loss", "evaluate", seconds=0.0, memory=_memory(work))
    # As it is and for two ablations; and for the first members of every ensemble, whose first is often another's.
    passes, layer = 3 + len(members), settings.model.layer
    # Only the first pass runs the blocks below the layer.
    blocks = shape.layers + (passes - 1) * (shape.layers - layer)
    reads = tokens * blocks / (layer + 1)  # as many as run up to the layer
    product = 2 * shape.d_model * shape.vocabulary
    scores = tokens * passes * shape.vocabulary
    return Stage(
        "evaluate loss",
        "evaluate",
        seconds=LOSS_START * rates.pace.one
        + reads * rates.forward
        + tokens * passes * product * rates.flop
        + scores * SCORE * rates.pace.one
        + _encoding(work, tokens, members),
        flops=round(reads * work.token_flops) + tokens * passes * product,
        memory=_memory(work)
        + work.model_bytes * (not work.machine.gpu)
        + 4 * FLOAT * shape.vocabulary * min(tokens, WHOLE_BATCH),
        disk=9000,
    )


def _control(work: Work) -> Stage:
    """Boosted ensembles and random stages in the place of theirs: reconstruction, and the loss of the latter."""
    seconds, flops, measured = CONTROL_START * work.rates.pace.one, 0, _memory(work)
    for method in controlled(work):
        members = work.members(method)
        tokens = 2 * work.evaluated + 2 * SAMPLE_ROWS
        passes = 20 + 8 * len(members)
        seconds += _encoding(work, tokens, members)
        seconds += passes * work.evaluated * work.shape.d_model * MOMENT * work.rates.pace.one
        flops += tokens * sum(member.run_flops for member in members)
        measured += 2 * FLOAT * SAMPLE_ROWS * max(member.width for member in members)
        measured += sum(FLOAT * member.parameters for member in members)
        loss = _loss(work)
        share = (3 + len(members)) / (3 + len(distinct_members(work)))
        seconds, flops = seconds + share * loss.seconds, flops + round(share * loss.flops)
    return Stage("evaluate control", "evaluate", seconds=seconds, flops=flops, memory=measured, disk=4000)


EVALUATING: dict[str, Callable[[Work], Stage]] = {
    "reconstruction": _reconstruction,
    "dictionary": _dictionary,
    "concepts": _concepts,
    "cost": _cost,
    "loss": _loss,
    "control": _control,
}
"""The evaluations of `analysis.stages.EVALUATIONS`."""
