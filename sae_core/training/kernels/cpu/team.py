"""Run compiled loops on several threads: torch's own where that is possible, else Python's.

A second pool of threads beside torch's would fight with it for the cores: after every parallel operation torch's idle
OpenMP threads spin for some milliseconds, which is as long as a whole loop here takes. So the loops run on the same
OpenMP threads, through the entry point `GOMP_parallel` of libgomp, where torch has loaded that library for all to see.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

from sae_core.training.kernels.cpu.compiled import Loop

PARTS_PER_THREAD = 4
"""Parts are handed out one by one, so a thread that is held up does fewer of them."""

_Region = Callable[[], None]
_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run(loop: Callable[..., None], *arguments: Any) -> None:
    """Call ``loop(part, parts, *arguments)`` for every part on as many threads as torch uses; parts are independent."""
    if isinstance(loop, Loop):
        loop = loop.compiled  # here, as the stacks of other threads may be too small for a compiler
    threads, parts = torch.get_num_threads(), count_parts()
    numbers = iter(range(parts))
    if threads > 1:
        _on_threads(_worker(loop, numbers, parts, arguments), threads)
    # What is left if a thread never started; nothing otherwise.
    for part in numbers:
        loop(part, parts, *arguments)


def count_parts() -> int:
    """How many parts `run` makes."""
    threads = torch.get_num_threads()
    return threads * PARTS_PER_THREAD if threads > 1 else 1


def _worker(loop: Callable[..., None], numbers: Iterator[int], parts: int, arguments: tuple[Any, ...]) -> _Region:
    def work() -> None:
        for part in numbers:  # taking a number holds the interpreter lock, so no two threads get the same
            loop(part, parts, *arguments)

    return work


def _on_threads(work: _Region, threads: int) -> None:
    parallel = openmp_entry()
    if parallel is None:
        others = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
        try:
            work()
        finally:
            for other in others:
                other.result()
        return
    errors: list[BaseException] = []

    def region(_: Any) -> None:
        # An exception, Ctrl-C among them, cannot pass through C; it is raised again below.
        try:
            work()
        except BaseException as error:
            errors.append(error)

    parallel(_REGION(region), None, threads, 0)
    if errors:
        raise errors[0]


@cache
def openmp_entry() -> Any:
    """`GOMP_parallel(function, data, threads, flags)` of the libgomp that torch runs on, or nothing."""
    if "OpenMP" not in torch.__config__.parallel_info():
        return None
    try:
        entry = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    entry.argtypes, entry.restype = (_REGION, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return entry


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sae-kernels")
