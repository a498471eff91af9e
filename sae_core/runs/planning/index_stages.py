"""What the command index will take, stage by stage as `analysis.prepare` does them for each ensemble.

Counted work (`counts`) times seconds of a unit of it. Encoding, matching and products are measured (`rates`). The units
of all other work are the constants below, in processor seconds of the machine by which `pace` measures this one; each
is from what its stage took for ensembles of 2,048 and 8,192 features that had read 150,000 tokens. Bytes in tables are
those of the same. Memory is what libraries and encoding keep, and what a stage holds besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sae_core.analysis.atoms.atom_map import CELLS
from sae_core.analysis.atoms.stage_energy import SAMPLE
from sae_core.analysis.index.by_token import FEATURES_A_TOKEN
from sae_core.analysis.index.together import KEPT
from sae_core.analysis.similarity.cosines import CELLS as SIMILARITIES
from sae_core.analysis.similarity.cosines import HELD_CELLS
from sae_core.analysis.similarity.firing import ENTRIES, PRODUCTS
from sae_core.analysis.similarity.nearest import KEPT as NEAREST
from sae_core.analysis.similarity.pair_scores import CONTEXT, TOP_CONTEXTS
from sae_core.runs.planning.counts import Counted, distinct_tokens
from sae_core.runs.planning.stages import Stage, Work, cache_bytes
from sae_core.training.operations import FLOAT

ENTRY_BYTES = 8
"""Of an activation in the index: its position and its value."""
ENCODING = 35 * 10**7
"""Bytes that encoding and sorting take beside weights and libraries, and that are not given back."""
ROW = 3.5e-10
"""Seconds to add or multiply one number of an atom for one of a token's active features."""
TELL_ENTRY, TELL_TOKEN = 2.0e-8, 6.0e-7
"""By token: an activation in the pass over all of them; a token of the text that is counted and written."""
SPREAD, VISIT, PRODUCT, COMPANION = 1.2e-8, 1.0e-7, 3.6e-9, 9.0e-9
"""Together: to put an activation where its token is; to find its token's others (read from all over the memory); one of
those; a pair of features that is ranked."""
CONTEXTS, TURN, CELL = 3.3e-5, 1.5e-8, 2.5e-9
"""Families: the contexts of a feature; to put an activation in the order of tokens; a pair of features that is
scored."""
FAMILY = 1.0e-4
"""The families of a feature by three measures, and scores within them."""
LENS_CELL = 2.6e-8
"""Lens: a logit that is searched for the largest and the smallest, besides the product."""
MAP_START, LAYOUT, NEIGHBOUR, CLUSTER = 8.5, 4.2e-4, 5.0e-9, 5.6e-9
"""Map: to import UMAP, once a process; an atom that it lays out, of which the time is a line in their number; a cosine
that is searched for neighbours; a pair of atoms in the clustering."""
DESCRIBE = 2.2e-5
"""Atoms: a feature."""
RULE_ENTRY, RULE_TOKEN = 2.9e-7, 1.3e-6
"""Suggestions: an activation, in whose context rules are sought; a token of the text whose contexts are counted."""
MATCH_BYTES, FIRING_BYTES, FAMILY_BYTES = 18, 22, 6
"""Of a feature's row for each other member in the tables of matches and of firing matches; in that of families."""
LENS_BYTES, MAP_BYTES, ATOM_BYTES, RULE_BYTES, ENERGY_BYTES = 210, 13, 54, 70, 27
"""Of a feature in each table."""
FILLED, TOLD = 0.87, 3.3
"""Features kept of a token, on average: such a share of the most that are kept, or so many for each that is active."""


def stages_of_indexing(work: Work) -> list[Stage]:
    """Everything that the command index does, in order; a stage of all ensembles together."""
    ensembles = [Counted(method, work.members(method), work.indexed) for method in work.settings.training.methods]
    return [_of_all(work, name, [stage(work, each) for each in ensembles]) for name, stage in INDEXING.items()]


def _of_all(work: Work, name: str, stages: list[Stage]) -> Stage:
    """A stage of one ensemble after another, with what is done once."""
    once = work.rates.compile.get(name, 0.0) + {"map": MAP_START * work.rates.pace.one}.get(name, 0.0)
    if name == "match" and any(stage.seconds for stage in stages):
        once += _matching(work)  # what chance gives, which is the same for ensembles of one width
    return replace(
        stages[0],
        seconds=once + sum(stage.seconds for stage in stages),
        flops=sum(stage.flops for stage in stages),
        memory=max(stage.memory for stage in stages),
        mapped=max(stage.mapped for stage in stages),
        disk=sum(stage.disk for stage in stages),
        temporary=max(stage.temporary for stage in stages),
    )


def kept_memory(work: Work, *, encoding: int = ENCODING) -> int:
    """Bytes of libraries, of an ensemble's weights and of what encoding with it takes."""
    largest = max(sum(FLOAT * member.parameters for member in members) for members in work.ensembles())
    return work.rates.libraries + largest + encoding


def _index_bytes(counted: Counted) -> int:
    return 8 * (counted.features + 1) + ENTRY_BYTES * counted.entries


def _index(work: Work, counted: Counted) -> Stage:
    tokens, d_in = counted.tokens, work.shape.d_model
    # Each process encodes and sorts its part of the tokens; a boosted stage also takes off what those before it say.
    seconds = sum(tokens * work.rates.index[member.width] for member in counted.members)
    if work.stages_of(counted.method) > 1:
        seconds += tokens * sum(counted.active[:-1]) * d_in * ROW * work.rates.pace.one
    return Stage(
        "index",
        "index",
        seconds=seconds / work.processes,
        flops=sum(tokens * member.run_flops for member in counted.members),
        memory=kept_memory(work),
        mapped=cache_bytes(tokens, d_in, work.settings.data.dtype, shards=1),
        disk=_index_bytes(counted),
        temporary=ENTRY_BYTES * counted.entries * (1 if work.processes == 1 else 2),  # runs, and all processes' shards
    )


def _tokens(work: Work, counted: Counted) -> Stage:
    told = distinct_tokens(counted.tokens, work.shape.vocabulary)
    kept = min(FEATURES_A_TOKEN, counted.features)
    rows = round(told * min(FILLED * kept, TOLD * sum(counted.active)))
    return Stage(
        "tokens",
        "index",
        seconds=(counted.entries * TELL_ENTRY + counted.tokens * TELL_TOKEN) * work.rates.pace.one,
        memory=kept_memory(work) + 20 * kept * told + 40 * counted.tokens,
        mapped=_index_bytes(counted),
        disk=12 * rows + 12 * told,
    )


def _together(work: Work, counted: Counted) -> Stage:
    found = counted.entries * VISIT + counted.neighbours * PRODUCT + counted.companions * COMPANION
    return Stage(
        "together",
        "index",
        seconds=counted.entries * SPREAD * work.rates.pace.one + found * work.rates.pace.all,
        memory=kept_memory(work) + 8 * counted.tokens + FLOAT * min(counted.entries, 32_000_000),
        mapped=_index_bytes(counted) + FLOAT * counted.entries,
        disk=8 * (1 + KEPT) * counted.features,
        temporary=FLOAT * counted.entries,
    )


def _matching(work: Work) -> float:
    """Seconds to match two members by atoms."""
    return work.rates.assign + 2 * work.shape.d_model * work.settings.sae.width**2 * work.rates.flop


def _match(work: Work, counted: Counted) -> Stage:
    held = 2 * FLOAT * min(max(member.width for member in counted.members) ** 2, HELD_CELLS) * bool(counted.pairs)
    return Stage(
        "match",
        "index",
        seconds=counted.pairs * _matching(work),
        flops=2 * work.shape.d_model * counted.cells,
        memory=kept_memory(work) + held,
        disk=MATCH_BYTES * counted.features * (len(counted.members) - 1),
    )


def _families(work: Work, counted: Counted) -> Stage:
    pace, others = work.rates.pace, len(counted.members) - 1
    # Of a long text, one of so many tokens is looked at.
    stride = max(1, -(-counted.largest // ENTRIES), -(-counted.products // PRODUCTS))
    visited, products = counted.entries * others / 2 / stride, counted.products / stride
    contexts = max(1, -(-counted.tokens // CONTEXT))
    top = min(TOP_CONTEXTS, contexts, -(-counted.entries // counted.features))
    products += counted.cells * top**2 / contexts
    visited += counted.features * top * others / 2
    # By two measures, of members as they are and shifted.
    scored = visited * VISIT + products * PRODUCT + 2 * counted.cells * CELL
    alone = counted.features * (CONTEXTS + FAMILY * bool(others)) + 2 * visited * TURN
    return Stage(
        "families",
        "index",
        seconds=alone * pace.one + 2 * scored * pace.all,
        memory=kept_memory(work) + 32 * counted.largest // stride + 200 * counted.features * others + 24 * 2**20,
        mapped=_index_bytes(counted),
        disk=(FIRING_BYTES * others + FAMILY_BYTES) * counted.features,
    )


def _nearest(work: Work, counted: Counted) -> Stage:
    cells = sum(member.width**2 for member in counted.members)
    flops = 2 * work.shape.d_model * cells
    return Stage(
        "nearest",
        "index",
        seconds=flops * work.rates.flop + cells * NEIGHBOUR * work.rates.pace.one,
        flops=flops,
        memory=kept_memory(work) + 2 * FLOAT * SIMILARITIES,
        disk=FLOAT * (2 * NEAREST + 1) * counted.features,
    )


def _lens(work: Work, counted: Counted) -> Stage:
    features, d_in, vocabulary = counted.features, work.shape.d_model, work.shape.vocabulary
    flops = 2 * features * d_in * vocabulary
    return Stage(
        "lens",
        "index",
        seconds=flops * work.rates.flop + features * vocabulary * LENS_CELL * work.rates.pace.all,
        flops=flops,
        memory=kept_memory(work) + FLOAT * d_in * vocabulary + 4 * FLOAT * min(16_000_000, features * vocabulary),
        disk=LENS_BYTES * features,
    )


def _map(work: Work, counted: Counted) -> Stage:
    features, d_in = counted.features, work.shape.d_model
    flops = 2 * d_in * features**2
    loops = features * LAYOUT + features**2 * (NEIGHBOUR + CLUSTER)
    return Stage(
        "map",
        "index",
        seconds=flops * work.rates.flop + loops * work.rates.pace.one,
        flops=flops,
        memory=kept_memory(work) + features * (2 * FLOAT * d_in + 3000) + 2 * FLOAT * min(CELLS // 2, features**2),
        disk=MAP_BYTES * features,
    )


def _atoms(work: Work, counted: Counted) -> Stage:
    return Stage(
        "atoms",
        "index",
        seconds=counted.features * DESCRIBE * work.rates.pace.one,
        memory=kept_memory(work) + 1000 * counted.features,
        mapped=_index_bytes(counted),
        disk=ATOM_BYTES * counted.features,
    )


def _suggest(work: Work, counted: Counted) -> Stage:
    loops = counted.entries * RULE_ENTRY + counted.tokens * RULE_TOKEN
    return Stage(
        "suggest",
        "index",
        seconds=loops * work.rates.pace.one,
        memory=kept_memory(work) + 40 * counted.tokens + 100 * work.shape.vocabulary + 500 * counted.features,
        mapped=_index_bytes(counted),
        disk=RULE_BYTES * counted.features,
    )


def _energy(work: Work, counted: Counted) -> Stage:
    if work.stages_of(counted.method) == 1:
        return Stage("energy", "index", seconds=0.0)
    tokens, d_in = min(counted.tokens, SAMPLE), work.shape.d_model
    # Every stage encodes, decodes and multiplies its atoms with two residuals.
    rows = 3 * tokens * sum(counted.active) * d_in
    seconds = sum(tokens * work.rates.index[member.width] for member in counted.members)
    return Stage(
        "energy",
        "index",
        seconds=seconds + rows * ROW * work.rates.pace.one,
        flops=sum(tokens * member.run_flops for member in counted.members) + 4 * tokens * sum(counted.active) * d_in,
        memory=kept_memory(work),
        mapped=cache_bytes(counted.tokens, d_in, work.settings.data.dtype, shards=1),
        disk=ENERGY_BYTES * counted.features,
    )


INDEXING: dict[str, Callable[[Work, Counted], Stage]] = {
    "index": _index,
    "tokens": _tokens,
    "together": _together,
    "match": _match,
    "nearest": _nearest,
    "families": _families,
    "lens": _lens,
    "map": _map,
    "atoms": _atoms,
    "suggest": _suggest,
    "energy": _energy,
}
"""The stages of `analysis.stages.PREPARING`, each as it will be for one ensemble."""
