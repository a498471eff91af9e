"""What gathering text, reading activations and training will take: counted work times the seconds of a unit of it."""

from __future__ import annotations

from dataclasses import replace

from sae_core.activations.origins.language_model.choosing import characters
from sae_core.activations.origins.language_model.streaming import SHUFFLE_BYTES
from sae_core.activations.store.cache import SHARD_BYTES
from sae_core.activations.store.piles import DEALT_AT_ONCE, MAX_PILES, PILE_BYTES
from sae_core.activations.store.shuffle import PILES_AT_ONCE
from sae_core.foundation.methods import EVERY, TRAINING_ORDER
from sae_core.runs.planning.stages import ITEM, Stage, Work, cache_bytes
from sae_core.training.members import starts_alike
from sae_core.training.operations import (
    FLOAT,
    Boosting,
    EnsembleShape,
    SAEShape,
    checkpoint_bytes,
    ensemble_flops,
    kept_residuals,
    residual_bytes,
)
from sae_core.training.residuals import BLOCK_ROWS, PASS_SHARDS
from sae_core.training.stage import CHECKPOINT_SECONDS
from sae_core.training.step import REFRESH

WINDOW_BYTES, CPU_TOKENS = 64 * 2**20, 2048
"""As in `activations.language_model`, whose import takes seconds."""
CACHE_SHARDS = 8
"""A small cache has about as many shards."""
ORDER = 16
"""Bytes a row of the cache takes while a pass is shuffled."""


def stages_of_training(work: Work) -> list[Stage]:
    """Everything that the command train does, in order."""
    wanted = work.settings.training.methods
    stages = [_shuffle(work)] if work.shuffled_on_disk else []
    stages += [_train(work, method) for method in TRAINING_ORDER if method in wanted]
    return [_gather(work), _read(work), *map(work.for_all_places, stages)]


def _gather(work: Work) -> Stage:
    chars, rates, shape = characters(work.settings), work.rates, work.shape
    tokens = work.rows + work.evaluated
    kept_chars = int(tokens * rates.chars_per_token)
    documents = int(tokens / max(1.0, rates.tokens_per_text))
    lens = FLOAT * shape.d_model * (shape.vocabulary + 2)
    return Stage(
        "gather text",
        "train",
        seconds=rates.gather_start + chars * rates.gather,
        # A text, its tokens and what is known of it; some hundred bytes of objects each.
        memory=rates.libraries + work.model_bytes * (not work.machine.gpu) + chars + 8 * tokens + 800 * documents,
        gpu_memory=work.model_bytes * work.machine.gpu,
        disk=work.places * (FLOAT * work.indexed + 8 * documents + lens + kept_chars // 2),
    )


def _read(work: Work) -> Stage:
    settings, rates, d_in = work.settings, work.rates, work.shape.d_model
    tokens, item = work.kept_rows + work.evaluated, ITEM[settings.data.dtype]
    most = SHARD_BYTES // (FLOAT * d_in)
    window = WINDOW_BYTES // (FLOAT * d_in)
    shard = max(min(window, work.kept_rows), min(most, work.kept_rows // CACHE_SHARDS))
    shards = -(-work.kept_rows // max(1, shard)) + -(-work.evaluated // max(1, shard))
    # Two windows of float32; a shard as it is stored, and twice in float64 for its mean, of one place at a time.
    windows = 2 * min(WINDOW_BYTES, FLOAT * d_in * tokens)
    writing = work.places * (windows + shard * d_in * item) + shard * d_in * (item + 16)
    passed = CPU_TOKENS if not work.machine.gpu else settings.model.batch_size * settings.model.context
    running = passed * (FLOAT // (1 + work.machine.gpu)) * (3 * work.shape.mlp + 8 * d_in)
    disk = work.places * cache_bytes(tokens, d_in, settings.data.dtype, shards=shards)
    on_host = (work.model_bytes + running) * (not work.machine.gpu)
    return Stage(
        "read activations",
        "train",
        seconds=tokens * rates.forward + work.places * tokens * d_in * item * rates.store,
        flops=tokens * work.token_flops,
        memory=rates.libraries + on_host + writing,
        gpu_memory=(work.model_bytes + running + WINDOW_BYTES) * work.machine.gpu,
        disk=disk,
    )


def _shuffle(work: Work) -> Stage:
    """The copy of the cache in piles; it is read once, written once and read again for its checksums."""
    seconds = 2 * work.drawn_bytes * work.rates.store
    memory, mapped = work.rates.libraries + 3 * DEALT_AT_ONCE, work.drawn_bytes
    return Stage("shuffle on disk", "train", seconds, memory=memory, mapped=mapped, temporary=work.dealt_bytes)


def _train(work: Work, method: str) -> Stage:
    members, stages = work.members(method), work.stages_of(method)
    shape = EnsembleShape.planned(EVERY[method].layout(work.settings), work.shape.d_model)
    sae = max(members, key=lambda each: each.k)
    boosting = _boosting(work) if stages > 1 else None
    shared = is_shared(work, method)
    groups = work.groups(method)[shared:]
    times = EVERY[method].times_the_steps(work.settings)
    tokens = times * work.trained_tokens
    passes, split = len(groups), work.groups(method)[0].split
    seconds = times * work.steps * sum(work.rates.step[group] for group in groups)
    together = work.groups(method)[0].members
    if stages == 1 < len(members):
        passes = -(-len(members) // work.side_by_side)
        together = work.side_by_side if split else -(-work.side_by_side // work.processes)
    seconds += _checkpoints(work, together, sae, seconds, times * passes)
    flops = ensemble_flops(shape, tokens=tokens, boosting=boosting, rows=work.rows)
    stage = Stage(
        f"train {method}",
        "train",
        seconds=seconds,
        flops=flops - shared * work.trained_tokens * members[0].step_flops,
        disk=sum(member.weight_bytes for member in members),
        temporary=work.dealt_bytes + 2 * checkpoint_bytes([sae] * together) * (seconds > CHECKPOINT_SECONDS),
        **_training_memory(work, sae, together, split=split, is_long=seconds > CHECKPOINT_SECONDS),
    )
    if boosting == "cached":
        stage = _with_residuals(work, stage, sae, len(members) - 1)
    elif boosting == "recomputed":
        # Each process runs finished stages on its rows of a batch.
        before = sum(range(len(members))) * work.trained_tokens / work.processes
        stage = replace(stage, seconds=stage.seconds + before * work.rates.run[sae.width])
    if work.streamed:
        again = passes * tokens
        again_flops = again * work.token_flops
        stage = replace(stage, seconds=stage.seconds + again * work.rates.forward, flops=stage.flops + again_flops)
    return stage


def help_flops(work: Work, *, share: float) -> int:
    """Operations that help for dead features (AuxK) adds, if so many of the features are dead whenever some can be."""
    settings, flops = work.settings, 0
    if not settings.sae.aux_coefficient:
        return 0
    for method in settings.training.methods:
        trained = work.trained_tokens * EVERY[method].times_the_steps(settings)
        tokens = max(0, trained - settings.sae.dead_after_tokens)
        members = work.members(method)[is_shared(work, method) :]
        flops += sum(tokens * member.help_flops(round(share * member.width)) for member in members)
    return work.places * flops


def noise_null(work: Work) -> tuple[float, int] | None:
    """(seconds, operations) of the null that `evaluate --retrain` trains; None where no ensemble has later stages.

    That are two SAEs for each boosted stage but the first, on noise of which every number is drawn and mixed anew.
    """
    seconds, flops, mixing = 0.0, 0, 2 * work.shape.d_model**2
    staged = [method for method in work.settings.training.methods if work.stages_of(method) > 1]
    for method in staged:
        groups, members = work.groups(method), work.members(method)
        # Stages that are trained side by side share a step among them.
        later = (len(members) - 1) / len(members)
        seconds += 2 * later * work.steps * sum(work.rates.step[group] for group in groups)
        seconds += 2 * len(members[1:]) * work.trained_tokens * mixing * work.rates.flop
        flops += 2 * sum(work.trained_tokens * (member.step_flops + mixing) for member in members[1:])
    return (work.places * seconds, work.places * flops) if staged else None


def is_shared(work: Work, method: str) -> bool:
    """Whether another method has trained the first member already."""
    settings, own = work.settings, EVERY[method]
    if work.stages_of(method) > 1 and settings.training.boosting != "sequential":
        return False
    first, wanted = next(own.layout(settings).ones()), set(own.first_from) & set(settings.training.methods)
    return any(
        starts_alike(settings, first, theirs) for other in wanted for theirs in EVERY[other].layout(settings).ones()
    )


def _boosting(work: Work) -> Boosting:
    settings = work.settings
    if settings.training.boosting == "pipelined":
        return "pipelined"
    disk, d_in = work.machine.disk, work.shape.d_model
    cache = work.places * cache_bytes(work.kept_rows, d_in, settings.data.dtype, shards=1)
    free = None if disk is None else disk - cache - residual_bytes(work.rows, d_in)
    kept = kept_residuals(settings, rows=work.rows, steps=work.steps, batch=work.batch, free=free)
    return "cached" if kept else "recomputed"


def _checkpoints(work: Work, together: int, sae: SAEShape, seconds: float, passes: int) -> float:
    """Seconds that writing checkpoints takes, of a training that takes so many."""
    interval = max(CHECKPOINT_SECONDS, REFRESH * seconds / max(1, passes * work.steps))
    return int(seconds / interval) * checkpoint_bytes([sae] * together) * work.rates.store


def _training_memory(work: Work, sae: SAEShape, together: int, *, split: bool, is_long: bool) -> dict[str, int]:
    rates, d_in = work.rates, sae.d_in
    batch = -(-work.batch // work.processes) if split else work.batch
    state = together * (sae.state_bytes + FLOAT * batch * d_in)
    if rates.fast and not split and not work.machine.gpu:
        buffers = sae.fast_step_bytes(batch, low_precision=rates.low_precision)
    else:  # the fast step of a GPU takes less
        buffers = sae.plain_step_bytes(batch) + together * sae.kept_gradient_bytes
    fed = 4 * FLOAT * work.batch * d_in
    # A checkpoint of a training that is long enough for one, or else a member's weights, laid out for the file.
    saved = 2 * checkpoint_bytes([sae] * together) if is_long else FLOAT * d_in * sae.width
    if work.streamed:
        chunk = min(SHUFFLE_BYTES, FLOAT * d_in * work.rows)
        source, mapped = 3 * chunk + int(work.rows * (rates.chars_per_token + 8)), 0
        source += work.model_bytes * (not work.machine.gpu)
    elif work.shuffled_on_disk:
        source, mapped = 2 * PILES_AT_ONCE * max(PILE_BYTES, work.drawn_bytes // MAX_PILES), work.drawn_bytes
    else:
        source, mapped = ORDER * work.rows, work.drawn_bytes
    if work.machine.gpu:
        model = work.model_bytes if work.streamed else 0
        return {
            "memory": rates.libraries + source + saved + fed,
            "gpu_memory": state + buffers + fed + model,
            "mapped": mapped,
        }
    return {"memory": rates.libraries + source + state + buffers + max(fed, saved), "mapped": mapped}


def _with_residuals(work: Work, stage: Stage, sae: SAEShape, writes: int) -> Stage:
    """A sequentially boosted stage with the passes that write what stages leave."""
    rates, rows, d_in = work.rates, work.rows, sae.d_in
    seconds = writes * rows * (rates.run[sae.width] + FLOAT * d_in * rates.store)
    shard = min(SHARD_BYTES // (FLOAT * d_in), max(BLOCK_ROWS, rows // PASS_SHARDS))
    writing = shard * d_in * (2 * FLOAT + 16) + 3 * FLOAT * BLOCK_ROWS * sae.width
    return replace(
        stage,
        seconds=stage.seconds + seconds,
        memory=max(stage.memory, work.rates.libraries + ORDER * rows + 2 * FLOAT * sae.parameters + writing),
        mapped=stage.mapped + residual_bytes(rows, d_in),
        temporary=stage.temporary + residual_bytes(rows, d_in),
    )
