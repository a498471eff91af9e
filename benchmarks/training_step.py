"""Seconds and memory of one training step of TopK SAEs: ours, plain and fast, and those of three libraries.

Every contender runs in a process of its own, and the processes take turns step by step, so that what else the machine
does hits all alike. Each step is preceded by one dense float32 encoder product in the same process, the yardstick.

    python benchmarks/training_step.py --peers ../peers/bin/python --json step.json

The peers' interpreter needs torch, eai-sparsify, dictionary-learning and sae-lens; without --peers only ours run.

On a GPU everything runs in bfloat16 (the peers by autocast), the yardstick is the encoder product in bfloat16, and the
card's matrix rate, a large square product of random numbers, is measured between the steps, too. There also

    python benchmarks/training_step.py --device cuda --profile

shows where the time of a fast step goes. On a card that has not run it before, run the tests first, as they compile
there what is interpreted elsewhere: pytest tests/test_triton_kernels.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

from trainers import CONTENDERS, SIZES, STEPS, Case, Contender, random_tables

SQUARE = 8192
"""Rows and columns of the product that measures a GPU's matrix rate."""

ALLOCATORS: dict[str, dict[str, str]] = {
    "as it comes": {},
    # glibc gives every large tensor fresh pages and takes them back; like this it keeps them.
    "tuned": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**36),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}


def work(name: str, members: int, case: Case) -> None:
    """Be one contender: for every line on standard input do a product and a step, and answer with their seconds."""
    with redirect_stdout(sys.stderr):
        import torch

        batches = random_tables(case, [(case.batch, case.d_in)] * 4)
        product, square = yardsticks(case)
        STEPS[name](case.small(), 1)(batches[0])  # imports and compiles
        seconds_of(product, case)
        seconds_of(square, case)
        if case.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if case.on_gpu else resident_bytes()
        step = STEPS[name](case, members)
        for x_BD in batches[:2]:
            step(x_BD)
    for number, _ in enumerate(sys.stdin):
        x_BD = batches[number % len(batches)]
        with redirect_stdout(sys.stderr):
            seconds = {"product": seconds_of(product, case), "step": seconds_of(lambda: step(x_BD), case)}  # noqa: B023
            rate = 2 * SQUARE**3 / seconds_of(square, case) if case.on_gpu else 0.0
        highest = (
            torch.cuda.max_memory_allocated()
            if case.on_gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(json.dumps({**seconds, "peak": highest - before, "rate": rate}), flush=True)


def yardsticks(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """The encoder product, and the product that measures the matrix rate of a GPU."""
    import torch

    number = torch.bfloat16 if case.on_gpu else torch.float32
    x_BD, W_ND = (table.to(number) for table in random_tables(case, [(case.batch, case.d_in), (case.width, case.d_in)]))
    product_BN = torch.empty(case.batch, case.width, dtype=number, device=case.device)
    if not case.on_gpu:
        return lambda: torch.mm(x_BD, W_ND.T, out=product_BN), lambda: None
    left, right = (torch.randn(SQUARE, SQUARE, dtype=number, device=case.device) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(x_BD, W_ND.T, out=product_BN), lambda: torch.mm(left, right, out=out)


def seconds_of(action: Callable[[], Any], case: Case) -> float:
    """Seconds that something takes until the device is done with it; on a GPU the mean of ten times in a row."""
    import torch

    if not case.on_gpu:
        began = time.perf_counter()
        action()
        return time.perf_counter() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        action()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / 10


def profile(case: Case) -> None:
    """Print the time of everything that a fast step starts on a GPU."""
    import torch

    (x_BD,), step = random_tables(case, [(case.batch, case.d_in)]), STEPS["fast"](case, 1)
    for _ in range(5):
        step(x_BD)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as recorded:
        for _ in range(10):
            step(x_BD)
        torch.cuda.synchronize()
    print(recorded.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=60))


def resident_bytes() -> int:
    """Memory that this process has now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


@contextmanager
def running(contender: Contender, allocator: str, case: Case, peers: str) -> Iterator[subprocess.Popen[str]]:
    """The process of a contender."""
    interpreter = peers if contender.peer else sys.executable
    command = [interpreter, __file__, "--worker", contender.name, str(contender.members), *map(str, astuple(case))]
    environment = {**os.environ, **ALLOCATORS[allocator]}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        try:
            take_turn(process)  # one after another, as their start would disturb the others
            yield process
        except OSError:
            errors.seek(0)
            raise SystemExit(f"{contender.name} ended early:\n{errors.read()[-2000:]}") from None
        finally:
            process.kill()


def take_turn(process: subprocess.Popen[str]) -> dict[str, float]:
    """Let a contender do one step."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise BrokenPipeError
    return dict(json.loads(answer))


def measure(case: Case, contenders: list[Contender], allocator: str, rounds: int, peers: str) -> list[dict[str, Any]]:
    """One row for every contender."""
    answers: list[list[dict[str, float]]] = [[] for _ in contenders]
    with ExitStack() as stack:
        processes = [stack.enter_context(running(contender, allocator, case, peers)) for contender in contenders]
        for _ in range(rounds):
            for process, seen in zip(processes, answers, strict=True):
                time.sleep(0.02)  # until the idle threads of the one before have stopped spinning
                seen.append(take_turn(process))
    rows = []
    for contender, seen in zip(contenders, answers, strict=True):
        steps, products = ([answer[key] for answer in seen] for key in ("step", "product"))
        ratios = [step / product / contender.members for step, product in zip(steps, products, strict=True)]
        rows.append(
            {
                **asdict(contender),
                **asdict(case),
                "allocator": allocator,
                "seconds": statistics.median(steps),
                "seconds_per_member": statistics.median(steps) / contender.members,
                "product_seconds": statistics.median(products),
                "products_per_member": statistics.median(ratios),
                "fastest_seconds": min(steps),
                "peak_bytes": max(answer["peak"] for answer in seen),
                **matrix_rate(case, contender.members, statistics.median(steps), seen),
            }
        )
    return rows


def matrix_rate(case: Case, members: int, seconds: float, seen: list[dict[str, float]]) -> dict[str, float]:
    """A GPU's matrix rate, and the share of it that the encoder products of a step of some seconds come to."""
    if not case.on_gpu:
        return {}
    rate = statistics.median(answer["rate"] for answer in seen)
    done = 2 * case.batch * case.d_in * case.width * members
    return {"operations_per_second": rate, "share_of_rate": done / seconds / rate}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = ["contender            members  allocator       s/step   s/member  products/member  peak MB  share of rate"]
    for row in sorted(rows, key=lambda row: row["seconds_per_member"]):
        figures = f"{row['seconds']:9.5f}  {row['seconds_per_member']:9.5f}  {row['products_per_member']:15.2f}"
        share = f"{row['share_of_rate']:13.3f}" if "share_of_rate" in row else ""
        lines.append(
            f"{row['name']:<20} {row['members']:>7}  {row['allocator']:<11} {figures}  {row['peak_bytes'] / 1e6:7.0f}"
            f"  {share}".rstrip()
        )
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", default="", help="Python interpreter that has the peers.")
    parser.add_argument("--rounds", type=int, default=9, help="Steps that are counted.")
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--size", type=int, action="append", help="Only the size with this number.")
    parser.add_argument("--only", action="append", help="Only these contenders.")
    parser.add_argument("--json", type=Path, help="Also write all rows there.")
    parser.add_argument("--profile", action="store_true", help="Only show where the time of a step on a GPU goes.")
    parser.add_argument("--worker", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, members, device, *numbers = options.worker
        work(name, int(members), Case(device, *map(int, numbers)))
        return
    cases = [Case(options.device, *size) for size in SIZES[options.device]]
    cases = [cases[number] for number in options.size or range(len(cases))]
    if options.profile:
        profile(cases[0])
        return
    contenders = [
        contender
        for contender in CONTENDERS
        if (options.peers or not contender.peer) and (not options.only or contender.name in options.only)
    ]
    rows: list[dict[str, Any]] = []
    for case in cases:
        measured = [
            row
            for allocator in (ALLOCATORS if options.device == "cpu" else ["as it comes"])
            for row in measure(case, contenders, allocator, options.rounds, options.peers)
        ]
        print(f"\n{case}\n{table(measured)}", flush=True)
        rows += measured
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
