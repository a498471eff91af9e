"""Compare the plans of `sae-ensemble plan` with measurements: seconds of every stage, peak memory, files.

Each configuration is planned, trained in a fresh folder, and planned again, all in processes of their own one after
another. What else the machine does hits plans and training alike only if it is steady, so the load is printed too.

    python benchmarks/plan.py --json plan.json

With --look what comes after training, index and evaluate, is run and compared stage by stage as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sae_core.activations.origins.language_model.model.random_model import write_random_model
from sae_core.activations.origins.language_model.model.shapes import KNOWN
from sae_core.analysis.stages import EVALUATIONS, PREPARING
from sae_core.foundation.methods import EVERY

WIDE_MODEL = "WIDE"
"""Stands for the folder of a model of 768 dimensions with random weights, which this program makes."""
CONFIGURATIONS: dict[str, list[str]] = {
    "demo, a third": ["--tokens", "400000"],
    "batchtopk, pipelined": [
        *("--layer", "2", "--architecture", "batchtopk", "--width", "4096", "--k", "32", "--members", "3"),
        *("--methods", "single,boosted", "--set", "training.boosting=pipelined", "--tokens", "240000"),
        *("--set", "data.train_tokens=120000", "--set", "training.batch_size=2048"),
    ],
    "d 768, bagged": [
        *("--model", WIDE_MODEL, "--layer", "2", "--width", "6144", "--k", "64", "--members", "2"),
        *("--methods", "bagged", "--tokens", "120000", "--set", "training.batch_size=2048"),
        *("--set", "data.train_tokens=60000", "--set", "data.index_tokens=30000"),
        *("--set", "data.evaluation_tokens=6000"),
    ],
    "jumprelu, plain, streamed": [
        *("--architecture", "jumprelu", "--width", "1024", "--methods", "single", "--kernels", "plain"),
        *("--tokens", "200000", "--set", "data.train_tokens=100000", "--set", "data.index_tokens=20000"),
        *("--set", "data.evaluation_tokens=10000", "--set", "data.storage=stream"),
    ],
    "3 members, deeper": [
        *("--layer", "4", "--width", "3072", "--k", "24", "--members", "3", "--methods", "bagged,boosted"),
        *("--tokens", "600000", "--set", "data.train_tokens=300000", "--set", "data.index_tokens=100000"),
    ],
}
"""No constant was set by any of them; the first is much like the demo, by which the declared costs were set."""
STAGES = {
    "corpus": ["corpus"],
    "activations": ["activations"],
    **{f"train {name}": [f"train/{name}"] for name in EVERY},
}
LATER = {
    "index": {stage.name: stage.key_of("") for stage in PREPARING},
    "evaluate": {f"evaluate {name}": f"evaluate/{name}" for name in EVALUATIONS},
}
"""By command: planned stages, and how what was recorded of them begins."""


class Done(NamedTuple):
    """What a command printed, and the most memory that it had."""

    printed: str
    memory: int


def program(*words: str) -> Done:
    """Run the command line."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as said:
        started = subprocess.Popen([sys.executable, "-m", "sae_core", *words], stdout=output, stderr=said)
        _, status, usage = os.wait4(started.pid, 0)
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            said.seek(0)
            raise SystemExit(said.read()[-2000:].decode())
        output.seek(0)
        return Done(output.read().decode(), 1024 * usage.ru_maxrss)


def wide_model(folder: Path) -> Path:
    """A model of GPT-NeoX's kind with 768 dimensions, three blocks and the embedded model's tokenizer."""
    shape = KNOWN["eleutherai/pythia-160m"]
    write_random_model(replace(shape, layers=3), folder)
    return folder


def recorded(run: Path) -> dict[str, dict[str, Any]]:
    """What a run says of its finished stages."""
    return dict(json.loads((run / "run.json").read_text(encoding="utf-8"))["finished"])


def size_of(run: Path) -> int:
    """Bytes of a run's files."""
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


def trained(run: Path, words: list[str]) -> dict[str, Any]:
    """Train, and say what it took by stage, and at most."""
    program("train", str(run), *words)
    finished = recorded(run)
    seconds = {
        name: sum(finished[key]["seconds"] - finished[key].get("shared_seconds", 0) for key in keys if key in finished)
        for name, keys in STAGES.items()
    }
    memory = max(facts.get("peak_memory_bytes", 0) for facts in finished.values())
    return {"seconds": seconds, "memory": memory, "disk": size_of(run)}


def looked(run: Path, command: str) -> dict[str, Any]:
    """The same of a command that comes after training."""
    before = size_of(run)
    done = program(command, str(run))
    finished = recorded(run)
    seconds = {
        name: sum(facts["seconds"] for key, facts in finished.items() if key.startswith(begins))
        for name, begins in LATER[command].items()
    }
    return {"seconds": seconds, "memory": done.memory, "disk": size_of(run) - before}


def compare(name: str, words: list[str], folder: Path, *, look: bool) -> dict[str, Any]:
    """Plan, train, plan again."""
    run, loads = folder / name.replace(" ", "_"), [os.getloadavg()[0]]
    began = time.perf_counter()
    plans = [json.loads(program("plan", str(run), *words, "--json").printed)]
    spent = time.perf_counter() - began
    happened = {"train": trained(run, words)}
    if look:
        happened |= {command: looked(run, command) for command in LATER}
    loads.append(os.getloadavg()[0])
    plans.append(json.loads(program("plan", str(run.with_name("again")), *words, "--json").printed))
    parts = [part_of(command, plans, actual) for command, actual in happened.items()]
    return {"name": name, "parts": parts, "plan_seconds": spent, "loads": loads}


def part_of(command: str, plans: list[dict[str, Any]], actual: dict[str, Any]) -> dict[str, Any]:
    """One command beside its plans: its stages with the total, memory and files."""
    before, after = ([stage for stage in plan["stages"] if stage["part"] == command] for plan in plans)
    rows = [
        {
            "stage": stage["name"],
            "before": stage["seconds"],
            "after": again["seconds"],
            "measured": actual["seconds"].get(stage["name"], 0.0),
        }
        for stage, again in zip(before, after, strict=True)
    ]
    total = {key: sum(row[key] for row in rows if row["measured"]) for key in ("before", "after", "measured")}
    return {
        "rows": [*(row for row in rows if row["measured"]), {"stage": f"{command}, in all", **total}],
        "memory": {"planned": max(stage["memory"] + stage["mapped"] for stage in before), "measured": actual["memory"]},
        "disk": {"planned": sum(stage["disk"] for stage in before), "measured": actual["disk"]},
    }


def table(result: dict[str, Any]) -> str:
    """One configuration as Markdown."""
    lines = [
        f"{result['name']} (load {result['loads'][0]:.1f} and {result['loads'][1]:.1f}; a plan took "
        f"{result['plan_seconds']:.0f} s, imports included)",
        "",
        "| | planned before | planned after | measured | before ÷ measured | after ÷ measured |",
        "|---|---|---|---|---|---|",
    ]
    for part in result["parts"]:
        for row in part["rows"]:
            ratios = [row[key] / row["measured"] for key in ("before", "after")]
            figures = [f"{row[key]:.1f} s" for key in ("before", "after", "measured")]
            lines.append(f"| {row['stage']} | {' | '.join(figures)} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
        for what in ("memory", "disk"):
            planned, actual = part[what]["planned"], part[what]["measured"]
            lines.append(f"| {what} | {planned / 1e6:.0f} MB | | {actual / 1e6:.0f} MB | {planned / actual:.2f} | |")
    return "\n".join(lines)


def main() -> None:
    """Read the options, compare, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", type=int, choices=range(len(CONFIGURATIONS)), action="append", help="Only this one.")
    parser.add_argument("--look", action="store_true", help="Also index and evaluate.")
    parser.add_argument("--json", type=Path, help="Also write all figures there.")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=options.json.parent if options.json else None) as temporary:
        folder = Path(temporary)
        for number in options.only or range(len(CONFIGURATIONS)):
            name, words = list(CONFIGURATIONS.items())[number]
            if WIDE_MODEL in words:
                words = [str(wide_model(folder / "model")) if word == WIDE_MODEL else word for word in words]
            results.append(compare(name, words, folder, look=options.look))
            print(f"\n{table(results[-1])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
