"""Gather a run whose activations are arrays: check every number, hold groups out, and write what its rows are."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_core.activations.massive import measure_massive
from sae_core.activations.origins.arrays.choosing import Chosen, Side, choose_rows
from sae_core.activations.origins.arrays.formats import Found, find_arrays
from sae_core.activations.origins.arrays.row_table import RowTable, read_table_of_rows
from sae_core.activations.origins.arrays.rows_kept import write_rows
from sae_core.activations.origins.arrays.settings import ArraySettings
from sae_core.activations.stages import ACTIVATIONS, CORPUS
from sae_core.activations.store.array_rows import (
    BFLOAT16,
    RowArray,
    described,
    read_blocks,
    served_dtype,
    write_order,
)
from sae_core.activations.store.cache import FORMAT, META, TENSOR, ActivationCache
from sae_core.activations.store.piles import choose_shuffle
from sae_core.foundation.errors import UserError
from sae_core.foundation.files.mapped_tensors import writing_tensors
from sae_core.foundation.files.whole_files import write_json
from sae_core.foundation.progress import Progress, Tick
from sae_core.foundation.run import Run

_UNPACKED = "unpacked"


def gather(run: Run, origin: ArraySettings, progress: Progress) -> None:
    """Write corpus and caches of a run; see `Origin.gather`.

    Raises:
        UserError: If an array or the table cannot be used, or a number is not finite.
    """
    if CORPUS.is_finished(run) and ACTIVATIONS.is_finished(run):
        return
    try:
        _gather(run, origin, progress)
    except UserError:
        for stage, folder in (("corpus", run.corpus.path), ("activations", run.activations)):
            if not run.is_finished(stage):  # what was refused leaves nothing behind
                shutil.rmtree(folder, ignore_errors=True)
        raise


def _gather(run: Run, origin: ArraySettings, progress: Progress) -> None:
    started = time.perf_counter()
    found = find_arrays(origin.files, origin.field)
    rows = sum(each.rows for each in found)
    table = read_table_of_rows(origin, rows)
    told = found[0].name if len(found) == 1 else f"{found[0].name} with {len(found) - 1} more"
    chosen = choose_rows(rows, table, run.settings.data, told)
    arrays = [each.array or _unpack(run, each, number, progress) for number, each in enumerate(found)]
    checked = _check(run, found, arrays, chosen, progress)
    caches = [_write_cache(run, name, checked, side) for name, side in checked.sides.items()]
    if not CORPUS.is_finished(run):
        files = write_rows(run, origin, table, chosen, arrays, progress)
        run.finish(CORPUS.key, _facts(run, found, table, chosen, caches, time.perf_counter() - started), files=files)
    unpacked = sorted((run.activations / _UNPACKED).glob("*.safetensors"))
    facts = {
        "seconds": time.perf_counter() - started,
        "tokens": sum(cache.rows for cache in caches),
        "fingerprint": " ".join(cache.fingerprint for cache in caches),
        "massive": measure_massive(caches[0]),
        "mean_square_norm": caches[0].d_in / caches[0].scale ** 2,
        "shuffle": ACTIVATIONS.facts(run).get("shuffle") or choose_shuffle(run, caches[0]),
    }
    run.finish(ACTIVATIONS.key, facts, files=[*unpacked, *(file for cache in caches for file in cache.files)])


def _facts(
    run: Run, found: Sequence[Found], table: RowTable | None, chosen: Chosen, caches: list[Any], seconds: float
) -> dict[str, Any]:
    train, held_out = chosen.train, chosen.held_out
    indexed = min(len(train.rows), run.settings.data.index_tokens)
    stretches = int(np.searchsorted(train.offsets, indexed))
    return {
        "seconds": seconds,
        "model": run.settings.origin.kind,
        "d_in": found[0].width,
        "dtype": "bfloat16" if found[0].dtype == BFLOAT16 else str(np.dtype(found[0].dtype)),
        "rows": sum(each.rows for each in found),
        "unpacked": any(each.array is None for each in found),
        "tokens": indexed,
        "index_tokens": indexed,
        "train_tokens": len(train.rows),
        "evaluation_tokens": len(held_out.rows),
        "documents": len(np.unique(train.group[:indexed])),
        "passages": stretches,
        "train_documents": len(np.unique(train.group)),
        "evaluation_documents": len(np.unique(held_out.group)),
        "groups": len(chosen.group_names),
        "held_out_by": chosen.held_out_by,
        "one_group": bool(table and table.group and chosen.held_out_by == "block"),
        "roles": table.roles if table else {},
        "labels": list(table.labels) if table else [],
        "fingerprint": hashlib.sha256(" ".join(cache.fingerprint for cache in caches).encode()).hexdigest()[:16],
    }


def _unpack(run: Run, found: Found, number: int, progress: Progress) -> RowArray:
    """Write the rows of an array, which do not lie one after the other in their file, into the run."""
    folder = run.activations / _UNPACKED
    path = folder / f"array_{number:05d}.safetensors"
    assert found.blocks is not None
    dtype = np.dtype(found.dtype)
    kept = dtype if dtype.str in ("<f2", "<f4") else np.dtype("<f4")
    done = 0
    with writing_tensors(path, {TENSOR: (kept, (found.rows, found.width))}) as writer:
        for block_BD in found.blocks():
            with np.errstate(over="ignore"):
                block_BD = block_BD.astype(kept)
            _require_finite(torch.from_numpy(block_BD), found.name, done)
            writer.write(TENSOR, done * found.width, block_BD)
            done += len(block_BD)
            progress(Tick("unpack activations", done, found.rows, "rows"))
        if done != found.rows:
            raise UserError(f"{found.name} holds {done} rows where it says {found.rows}; write it again.")
    start = path.stat().st_size - found.rows * found.width * kept.itemsize
    return RowArray(f"../{_UNPACKED}/{path.name}", start, found.rows, found.width, kept.str)


class _Checked:
    """What was found in reading all arrays once.

    Attributes:
        arrays: What the caches say of each array.
        dtype: The number format in which caches give rows.
        sides: The rows of both caches.
        sums: The sum of each cache's rows [D], float64.
        squares: The sum of their squares.
    """

    def __init__(self, chosen: Chosen, width: int, dtype: str) -> None:
        self.arrays: list[dict[str, Any]] = []
        self.dtype = dtype
        self.sides: dict[str, Side] = {"train": chosen.train, "evaluation": chosen.held_out}
        self.sums = {name: torch.zeros(width, dtype=torch.float64) for name in self.sides}
        self.squares = dict.fromkeys(self.sides, 0.0)


def _check(
    run: Run, found: Sequence[Found], arrays: Sequence[RowArray], chosen: Chosen, progress: Progress
) -> _Checked:
    checked = _Checked(chosen, arrays[0].width, served_dtype(arrays[0].dtype))
    total = sum(array.rows for array in arrays)
    side_R = np.zeros(total, np.int8)
    for number, side in enumerate(checked.sides.values(), start=1):
        side_R[side.rows] = number
    first, folder = 0, run.activations / "train"
    for each, array in zip(found, arrays, strict=True):
        digest = hashlib.sha256()
        for start, block_BD in read_blocks(folder, array, digest.update):
            # Exact in float64, of which the sum is finite if and only if all numbers are.
            acts_BD = _as_torch(block_BD, array).double()
            if not acts_BD.sum().isfinite():
                _require_finite(acts_BD, each.name, start)
            side_B = torch.from_numpy(side_R[first + start : first + start + len(block_BD)])
            for number, name in enumerate(checked.sides, start=1):
                chosen_B = side_B == number
                part_BD = acts_BD if chosen_B.all() else acts_BD[chosen_B]
                checked.sums[name] += part_BD.sum(dim=0)
                checked.squares[name] += float(part_BD.reshape(-1).dot(part_BD.reshape(-1)))
            progress(Tick("check activations", first + start + len(block_BD), total, "rows"))
        first += array.rows
        checked.arrays.append(described(folder, array, digest.hexdigest()))
    return checked


def _as_torch(block_BD: NDArray[Any], array: RowArray) -> Tensor:
    """Rows as numbers that torch knows, float32 where they are neither float16 nor bfloat16."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(block_BD).view(torch.bfloat16)
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused
        return torch.from_numpy(block_BD if array.dtype == "<f2" else block_BD.astype(np.float32))


def _require_finite(acts_BD: Tensor, told: str, first: int) -> None:
    fine_B = acts_BD.isfinite().all(dim=1)
    if not fine_B.all():
        row = int((~fine_B).nonzero()[0])
        column = int((~acts_BD[row].isfinite()).nonzero()[0])
        raise UserError(
            f"{told} holds {float(acts_BD[row, column])} in row {first + row + 1}, number {column + 1}, or a number "
            "too large for float32; every activation has to be finite."
        )


def _write_cache(run: Run, name: str, checked: _Checked, side: Side) -> ActivationCache:
    folder = run.activations / name
    _clear(folder)
    write_order(folder, side.rows)
    digest = hashlib.sha256(side.rows.tobytes())
    for array in checked.arrays:
        digest.update(str(array["checksum"]).encode())
    meta = {
        "format": FORMAT,
        "contents": f"{name} rows of arrays",
        "d_in": len(checked.sums[name]),
        "dtype": checked.dtype,
        "rows": len(side.rows),
        "shards": [],
        "arrays": checked.arrays,
        "sum": checked.sums[name].tolist(),
        "sum_of_squares": checked.squares[name],
        "finished": True,
        "fingerprint": digest.hexdigest()[:16],
    }
    write_json(folder / META, meta)
    return ActivationCache.open(folder)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
