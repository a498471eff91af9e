"""Let ten people browse one dashboard at once: measure how long each waits, and whether pages fail or get mixed up.

    python benchmarks/dashboard_people.py RUN --people 10 --seconds 60

Each has a session of its own, opens one feature after another with a second of thought in between, now and then the
table or another page, and checks that what comes is the feature that was asked for. The clients are no browsers but
speak Streamlit's protocol, in a process beside the server: what is timed is the wait for the server, all of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from dashboard_server import HEADING, Answer, Person, described, machine, served, summary

from sae_core.foundation.files.whole_files import read_table
from sae_core.foundation.run import Run

OTHERS = ("features", "compare", "map", "concepts", "labels", "")
"""Pages that people open now and then; the last one is the overview."""


async def browse(
    address: str, number: int, features: list[int], where: dict[str, str], *, seconds: float, thought: float
) -> tuple[dict[str, list[float]], list[str]]:
    """(milliseconds by page, what was wrong) of one person."""
    chance, waits, wrong = np.random.default_rng(number), defaultdict(list), []
    end = time.monotonic() + seconds
    async with Person(address) as person:
        await asyncio.sleep(chance.uniform(0, thought))
        await person.visit("", **where)  # the first page, which is timed elsewhere
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.5, 1.5) * thought)
            feature = int(chance.choice(features))
            page = "feature" if chance.random() < 0.9 else str(chance.choice(OTHERS))
            answer = await person.visit(page, **where, **({"feature": feature} if page == "feature" else {}))
            waits[page or "overview"].append(answer.milliseconds)
            wrong += faults(answer, page, feature, number)
    return waits, wrong


def faults(answer: Answer, page: str, feature: int, number: int) -> list[str]:
    """What is wrong with an answer."""
    found = [f"person {number}, {page}: {text}" for text in answer.exceptions]
    if any("cannot be shown" in text for text in answer.texts):
        found.append(f"person {number}, {page}: an error page")
    if page == "feature" and answer.features() != {feature}:
        found.append(f"person {number} asked for feature {feature} and sees {sorted(answer.features())}")
    return found


async def together(address: str, run: Run, ensemble: str, options: argparse.Namespace) -> dict[str, Any]:
    """All people at once."""
    atoms = read_table(run.ensemble(ensemble).atoms)
    features = atoms["feature"][~atoms["dead"]].tolist()
    where = {"run": run.path.name, "ensemble": ensemble}
    people = [
        browse(address, number, features, where, seconds=options.seconds, thought=options.thought)
        for number in range(options.people)
    ]
    waits: dict[str, list[float]] = defaultdict(list)
    wrong: list[str] = []
    for own_waits, own_wrong in await asyncio.gather(*people):
        wrong += own_wrong
        for page, values in own_waits.items():
            waits[page] += values
    return {"milliseconds": waits, "wrong": wrong}


def main() -> None:
    """Serve the run, let people browse, print what they waited."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ensemble", default="bagged")
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--thought", type=float, default=1.0, help="Seconds between an answer and the next request.")
    parser.add_argument("--up", type=float, default=15.0, help="Seconds that the server has been up before.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    run = Run.open(options.run)
    with served(options.run) as server:
        time.sleep(options.up)
        before = server.memory()
        found = asyncio.run(together(server.address, run, options.ensemble, options))
        after = server.memory()
    waits = found["milliseconds"]
    everything = [value for values in waits.values() for value in values]
    print(f"{options.people} people, {options.thought:g} s of thought, {options.seconds:g} s; {machine()}\n\n{HEADING}")
    print(described("all pages", everything))
    for page, values in sorted(waits.items()):
        print(described(page, values))
    print(f"\nserver: {before['own']:.0f} MB before, {after['own']:.0f} MB after, {after['mapped']:.0f} MB mapped")
    print(f"faults: {len(found['wrong'])}", *found["wrong"][:10], sep="\n")
    if options.json:
        figures = {page: summary(values) for page, values in waits.items()} | {"all": summary(everything)}
        text = json.dumps({"machine": machine(), "waits": figures, "faults": found["wrong"], "memory": after}, indent=2)
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
