"""What comes after training, planned more coarsely: index, match, lens, map and evaluation."""

from __future__ import annotations

from sae_core.evaluation.similarity import HELD_CELLS
from sae_core.planning.stages import Stage, Work, cache_bytes
from sae_core.training.work import FLOAT

FEATURE_BYTES, MATCH_BYTES = 300, 18
"""Bytes of a feature's rows in the tables of tokens, places and atoms, and of its row for each other member."""
ENTRY_BYTES = 8
MAP_START, MAP_ATOM = 25.0, 6e-4
"""Seconds that UMAP takes to compile, once a process, and for an atom besides its neighbours; of one machine."""
DESCRIBE_ATOM = 1e-4
POOLED = 128


def stages_of_looking(work: Work) -> list[Stage]:
    """Everything that the commands index and evaluate do, in order."""
    stages = (_index(work), _match(work), _lens(work), _map(work), _evaluate(work))
    return [work.for_all_places(stage) for stage in stages]


def _index(work: Work) -> Stage:
    rates, tokens = work.rates, work.indexed
    ensembles = work.ensembles()
    # Each process encodes and sorts its part of the tokens.
    seconds = sum(tokens * rates.index[member.width] for members in ensembles for member in members) / work.processes
    entries = [sum(min(member.k, member.width) for member in members) * tokens for members in ensembles]
    features = [sum(member.width for member in members) for members in ensembles]
    largest = max(sum(FLOAT * member.parameters for member in members) for members in ensembles)
    return Stage(
        "index",
        "index",
        seconds=seconds,
        flops=sum(tokens * member.run_flops for members in ensembles for member in members),
        memory=rates.libraries + largest + 6 * 10**8,
        mapped=cache_bytes(tokens, work.shape.d_model, work.settings.data.dtype, shards=1),
        disk=sum(8 * (count + 1) for count in features) + ENTRY_BYTES * sum(entries),
        temporary=ENTRY_BYTES * max(entries) * (1 if work.processes == 1 else 2),  # runs, and shards of all processes
    )


def _match(work: Work) -> Stage:
    sae, d_in = work.sae("bagged"), work.shape.d_model
    several = [members for members in work.ensembles() if len(members) > 1]
    pairs = sum(len(members) * (len(members) - 1) // 2 for members in several)
    product = 2 * d_in * sae.width**2
    return Stage(
        "match",
        "index",
        seconds=(pairs + bool(pairs)) * (work.rates.assign + product * work.rates.flop),
        flops=pairs * product,
        memory=work.rates.libraries
        + (2 * FLOAT * min(sae.width**2, HELD_CELLS) + FLOAT * sae.parameters * len(work.members("bagged")))
        * bool(pairs),
        disk=sum(MATCH_BYTES * member.width * (len(members) - 1) for members in several for member in members),
    )


def _features(work: Work) -> list[int]:
    return [sum(member.width for member in members) for members in work.ensembles()]


def _lens(work: Work) -> Stage:
    features, d_in, vocabulary = sum(_features(work)), work.shape.d_model, work.shape.vocabulary
    # The product, and some passes over the logits to find the largest and the smallest.
    flops = 2 * features * d_in * vocabulary
    return Stage(
        "logit lens",
        "index",
        seconds=(flops + 400 * features * vocabulary) * work.rates.flop,
        flops=flops,
        memory=work.rates.libraries + FLOAT * d_in * vocabulary + 4 * FLOAT * 16_000_000,
        disk=FEATURE_BYTES * features,
    )


def _map(work: Work) -> Stage:
    features, d_in = _features(work), work.shape.d_model
    flops = sum(2 * d_in * count**2 for count in features)
    seconds = MAP_START + sum(features) * (MAP_ATOM + DESCRIBE_ATOM) + 2 * flops * work.rates.flop
    return Stage(
        "map and describe",
        "index",
        seconds=seconds,
        flops=flops,
        memory=work.rates.libraries + max(features) * (2 * FLOAT * d_in + 3000) + 2 * FLOAT * 1024 * max(features),
    )


def _evaluate(work: Work) -> Stage:
    settings, rates, d_in = work.settings, work.rates, work.shape.d_model
    members = [member for members in work.ensembles() for member in members]
    pooled = settings.evaluation.pool_texts * min(POOLED, settings.evaluation.tokens_per_text)
    pooled = pooled if settings.text.source == "embedded" else 0
    tokens = work.evaluated + min(work.evaluated, 10_000) + pooled
    cosines = sum(2 * d_in * count**2 for count in _features(work))
    match = _match(work)
    # The whole model runs for each member put back, and as it is and for two ablations.
    passed = (len(members) + 3) * settings.evaluation.loss_tokens
    return Stage(
        "evaluate",
        "evaluate",
        seconds=tokens * sum(rates.index[member.width] for member in members)
        + (pooled + passed) * rates.forward
        + match.seconds
        + cosines * rates.flop,
        flops=tokens * sum(member.run_flops for member in members)
        + (pooled + passed) * work.token_flops
        + match.flops
        + cosines,
        memory=rates.libraries + sum(FLOAT * member.parameters for member in members) + 10**9 // 2,
        disk=10**6,
    )
