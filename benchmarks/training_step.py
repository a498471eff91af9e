"""Seconds and memory of one training step of TopK SAEs on a CPU: ours, plain and fast, and those of three libraries.

Every contender runs in a process of its own, and the processes take turns step by step, so that what else the machine
does hits all alike. Each step is preceded by one dense float32 encoder product in the same process, the yardstick.

    python benchmarks/training_step.py --peers ../peers/bin/python --json step.json

The peers' interpreter needs torch, eai-sparsify, dictionary-learning and sae-lens; without --peers only ours run.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BATCH = 2048
SIZES = ((512, 8192, 32), (768, 16384, 64))
"""(dimension, features, active features)."""

ALLOCATORS: dict[str, dict[str, str]] = {
    "as it comes": {},
    # glibc gives every large tensor fresh pages and takes them back; like this it keeps them.
    "tuned": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**36),
        "MALLOC_TOP_PAD_": str(2**28),
    },
}

Step = Callable[[Any], Any]


@dataclass(frozen=True)
class Contender:
    """Something that trains SAEs.

    Attributes:
        name: Its name in the table and for `STEPS`.
        members: How many SAEs it trains at a time.
        peer: Whether it needs the peers' interpreter.
    """

    name: str
    members: int = 1
    peer: bool = False


CONTENDERS = (
    *(Contender(kernels, members) for members in (1, 4, 8) for kernels in ("fast", "plain")),
    *(Contender(name, peer=True) for name in ("sparsify", "dictionary_learning", "sae_lens")),
)


def ours(d_in: int, width: int, k: int, members: int, *, kernels: str) -> Step:
    """The members' steps on one batch, as `train_stage` does them."""
    import torch

    from sae_core.config import RunSettings
    from sae_core.training.members import make_trainer
    from sae_core.training.stage import Plan

    settings = RunSettings.model_validate({"sae": {"width": width, "k": k}, "training": {"kernels": kernels}})
    plan = Plan("bagged", 10_000, BATCH, 1, 0, torch.device("cpu"))
    trainers = [make_trainer(settings, torch.zeros(d_in), plan, member=j, width=width) for j in range(members)]
    return lambda x_BD: [trainer.step(x_BD) for trainer in trainers]


def dictionary_learning(d_in: int, width: int, k: int, _: int) -> Step:
    """`TopKTrainer.update`; not its first one, which also takes a median."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(10_000, d_in, width, k, layer=0, lm_name="none", device="cpu", seed=0)
    return lambda x_BD: trainer.update(1, x_BD)


def sae_lens(d_in: int, width: int, k: int, _: int) -> Step:
    """`SAETrainer.step`; with sparse activations it does not run on a CPU."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = TopKTrainingSAEConfig(d_in=d_in, d_sae=width, k=k, device="cpu")
    schedule = SAETrainerConfig(total_training_samples=10_000 * BATCH, train_batch_size_samples=BATCH, lr_end=3e-5)
    return SAETrainer(schedule, TopKTrainingSAE(config), data_provider=iter(())).step


def sparsify(d_in: int, width: int, k: int, _: int) -> Step:
    """What the `Trainer` of sparsify does with the activations of one hook, with its option adam."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(d_in, SparseCoderConfig(num_latents=width, k=k))
    adam = torch.optim.Adam(coder.parameters(), lr=1e-3)
    idle_N = torch.zeros(width, dtype=torch.long)

    def step(x_BD: torch.Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (x_BD - x_BD.mean(0)).pow(2).sum()
        out = coder(x=x_BD, y=x_BD, dead_mask=None, total_variance=total_variance)
        fired_N = torch.zeros(width, dtype=torch.bool)
        fired_N[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        idle_N.add_(len(x_BD))
        idle_N[fired_N] = 0

    return step


STEPS: dict[str, Callable[[int, int, int, int], Step]] = {
    "fast": lambda *size: ours(*size, kernels="fast"),
    "plain": lambda *size: ours(*size, kernels="plain"),
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "sae_lens": sae_lens,
}


def work(name: str, members: int, d_in: int, width: int, k: int) -> None:
    """Be one contender: for every line on standard input do a product and a step, and answer with their seconds."""
    with redirect_stdout(sys.stderr):
        import torch

        generator = torch.Generator().manual_seed(0)
        batches = [torch.randn(BATCH, d_in, generator=generator) for _ in range(4)]
        W_DN, product_BN = torch.randn(width, d_in, generator=generator).T, torch.empty(BATCH, width)
        torch.mm(batches[0], W_DN, out=product_BN)
        STEPS[name](d_in, 64, 4, 1)(batches[0])  # imports and compiles
        before = resident_bytes()
        step = STEPS[name](d_in, width, k, members)
        for x_BD in batches[:2]:
            step(x_BD)
    for number, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        torch.mm(batches[0], W_DN, out=product_BN)
        middle = time.perf_counter()
        step(batches[number % len(batches)])
        seconds = time.perf_counter() - middle
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        print(json.dumps({"product": middle - began, "step": seconds, "peak": peak}), flush=True)


def resident_bytes() -> int:
    """Memory that this process has now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize()


@contextmanager
def running(contender: Contender, allocator: str, size: tuple[int, ...], peers: str) -> Iterator[subprocess.Popen[str]]:
    """The process of a contender."""
    interpreter = peers if contender.peer else sys.executable
    command = [interpreter, __file__, "--worker", contender.name, str(contender.members), *map(str, size)]
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


def measure(
    size: tuple[int, ...], contenders: list[Contender], allocator: str, rounds: int, peers: str
) -> list[dict[str, Any]]:
    """One row for every contender."""
    answers: list[list[dict[str, float]]] = [[] for _ in contenders]
    with ExitStack() as stack:
        processes = [stack.enter_context(running(contender, allocator, size, peers)) for contender in contenders]
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
                **dict(zip(("d_in", "width", "k"), size, strict=True)),
                "allocator": allocator,
                "seconds": statistics.median(steps),
                "seconds_per_member": statistics.median(steps) / contender.members,
                "product_seconds": statistics.median(products),
                "products_per_member": statistics.median(ratios),
                "fastest_seconds": min(steps),
                "peak_bytes": max(answer["peak"] for answer in seen),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = ["contender            members  allocator     s/step  s/member  products/member  peak MB"]
    for row in sorted(rows, key=lambda row: row["seconds_per_member"]):
        figures = f"{row['seconds']:8.3f}  {row['seconds_per_member']:8.3f}  {row['products_per_member']:15.2f}"
        lines.append(
            f"{row['name']:<20} {row['members']:>7}  {row['allocator']:<11} {figures}  {row['peak_bytes'] / 1e6:7.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", default="", help="Python interpreter that has the peers.")
    parser.add_argument("--rounds", type=int, default=9, help="Steps that are counted.")
    parser.add_argument("--size", type=int, choices=range(len(SIZES)), action="append", help="Only this size.")
    parser.add_argument("--only", action="append", help="Only these contenders.")
    parser.add_argument("--json", type=Path, help="Also write all rows there.")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, *numbers = options.worker
        work(name, *map(int, numbers))
        return
    contenders = [
        contender
        for contender in CONTENDERS
        if (options.peers or not contender.peer) and (not options.only or contender.name in options.only)
    ]
    rows: list[dict[str, Any]] = []
    for number in options.size or range(len(SIZES)):
        d_in, width, k = SIZES[number]
        measured = [
            row
            for allocator in ALLOCATORS
            for row in measure(SIZES[number], contenders, allocator, options.rounds, options.peers)
        ]
        print(f"\n{BATCH} activations of dimension {d_in}, {width} features, {k} active\n{table(measured)}", flush=True)
        rows += measured
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
