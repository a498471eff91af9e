"""What `sae-ensemble plan` says beside what then happens: seconds of every stage, peak memory, files.

Each configuration is planned, trained in a fresh folder, and planned again, all in processes of their own one after
another. What else the machine does hits plans and training alike only if it is steady, so the load is printed too.

    python benchmarks/plan.py --json plan.json

With --look the stages after training are run and compared as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
}
STAGES = {
    "gather text": ["corpus"],
    "read activations": ["activations"],
    **{f"train {name}": [f"train/{name}"] for name in ("bagged", "single", "boosted", "expanded")},
}
LATER = {
    "index": ["index"],
    "match": ["match"],
    "logit lens": ["lens"],
    "map and describe": ["map", "atoms"],
}


def program(*words: str) -> str:
    """Run the command line and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "sae_core.cli", *words], capture_output=True, text=True, check=False, env=os.environ
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def wide_model(folder: Path) -> Path:
    """A model of GPT-NeoX's kind with 768 dimensions, three blocks and the embedded model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from sae_core.activations.embedded import model_folder

    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        num_hidden_layers=3,
        num_attention_heads=12,
        intermediate_size=3072,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measured(run: Path) -> dict[str, Any]:
    """Seconds, peak memory, files and operations of a run that was trained."""
    finished = json.loads((run / "run.json").read_text(encoding="utf-8"))["finished"]
    seconds = {
        name: sum(finished[key]["seconds"] - finished[key].get("shared_seconds", 0) for key in keys if key in finished)
        for name, keys in STAGES.items()
    }
    for name, keys in LATER.items():
        seconds[name] = sum(facts["seconds"] for stage, facts in finished.items() if stage.split("/")[0] in keys)
    files = [path for path in run.rglob("*") if path.is_file()]
    return {
        "seconds": seconds,
        "memory": max(facts.get("peak_memory_bytes", 0) for facts in finished.values()),
        "disk": sum(path.stat().st_size for path in files),
    }


def compare(name: str, words: list[str], folder: Path, *, look: bool) -> dict[str, Any]:
    """Plan, train, plan again."""
    run, loads = folder / name.replace(" ", "_"), [os.getloadavg()[0]]
    began = time.perf_counter()
    plans = [json.loads(program("plan", str(run), *words, "--json"))]
    spent = time.perf_counter() - began
    program("train", str(run), *words)
    trained = measured(run)  # before the index is on disk too
    if look:
        program("index", str(run))
        trained["seconds"] |= {stage: measured(run)["seconds"][stage] for stage in LATER}
    loads.append(os.getloadavg()[0])
    plans.append(json.loads(program("plan", str(run.with_name("again")), *words, "--json")))
    rows = []
    for stage in plans[0]["stages"]:
        actual = trained["seconds"].get(stage["name"], 0.0)
        again = next(other["seconds"] for other in plans[1]["stages"] if other["name"] == stage["name"])
        if actual:
            rows.append({"stage": stage["name"], "before": stage["seconds"], "after": again, "measured": actual})
    parts = [stage for stage in plans[0]["stages"] if stage["part"] == "train"]
    training = [row for row in rows if row["stage"] in STAGES]
    total = {key: sum(row[key] for row in training) for key in ("before", "after", "measured")}
    return {
        "name": name,
        "rows": [*rows, {"stage": "train, in all", **total}],
        "plan_seconds": spent,
        "loads": loads,
        "memory": {"planned": max(s["memory"] + s["mapped"] for s in parts), "measured": trained["memory"]},
        "disk": {"planned": sum(stage["disk"] for stage in parts), "measured": trained["disk"]},
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
    for row in result["rows"]:
        ratios = [row[key] / row["measured"] for key in ("before", "after")]
        figures = [f"{row[key]:.1f} s" for key in ("before", "after", "measured")]
        lines.append(f"| {row['stage']} | {' | '.join(figures)} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    for what in ("memory", "disk"):
        planned, actual = result[what]["planned"], result[what]["measured"]
        lines.append(f"| {what} | {planned / 1e6:.0f} MB | | {actual / 1e6:.0f} MB | {planned / actual:.2f} | |")
    return "\n".join(lines)


def main() -> None:
    """Read the options, compare, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", type=int, choices=range(len(CONFIGURATIONS)), action="append", help="Only this one.")
    parser.add_argument("--look", action="store_true", help="Also index, match and map.")
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
