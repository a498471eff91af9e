"""Measure the time from text to trained members: tokenizing, the model's forward pass, writing, the step, waiting.

    python benchmarks/end_to_end.py --tokens 100000 --json end_to_end.json

On the embedded text and model, with the activations cached or streamed, and with batches made in advance or when they
are wanted. Each case runs in a process of its own; what is timed is the code that `sae-ensemble train` runs.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CASES = (("disk", "ahead"), ("disk", "none"), ("stream", "default"), ("stream", "ahead"))
"""(data.storage, how batches are made: ahead by a thread, none in advance, or as the program chooses)."""
PARTS = ("text", "tokenize", "forward", "write", "step", "wait", "rest")

Seconds = dict[str, float]


def timed(seconds: Seconds, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, of which the time is added to a part."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            seconds[part] += time.perf_counter() - began

    return wrapper


def timed_items(seconds: Seconds, part: str, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The generator function, of which the time to make its items is added to a part."""

    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Iterator[Any]:
        items = function(*args, **options)
        while True:
            began = time.perf_counter()
            item = next(items, None)
            seconds[part] += time.perf_counter() - began
            if item is None:
                return
            yield item

    return wrapper


def measure(storage: str, made: str, tokens: int, members: int) -> Seconds:
    """Seconds by part of one training from text; ``forward`` of a stream in another thread overlaps with ``step``."""
    from sae_core.activations import harvest
    from sae_core.activations.origins.language_model.reading import LanguageModel
    from sae_core.activations.origins.language_model.tokenized import TextTokenizer
    from sae_core.activations.store.cache import CacheWriter
    from sae_core.foundation.run import Run
    from sae_core.foundation.settings.run_settings import RunSettings
    from sae_core.runs import pipeline
    from sae_core.training import prefetch
    from sae_core.training.step import Trainer

    seconds: Seconds = defaultdict(float)
    if made != "default":
        prefetch.batches_ahead = lambda batches, _: getattr(batches, "ahead", 3) if made == "ahead" else 0
    harvest.load_documents = timed(seconds, "text", harvest.load_documents)
    for owner, name, part in (
        (LanguageModel, "_run", "forward"),
        (CacheWriter, "append", "write"),
        (CacheWriter, "finish", "write"),
    ):
        setattr(owner, name, timed(seconds, part, getattr(owner, name)))
    setattr(TextTokenizer, "encode", timed_items(seconds, "tokenize", TextTokenizer.encode))  # noqa: B010
    setattr(Trainer, "step", timed(seconds, "step", Trainer.step))  # noqa: B010
    settings = {
        "data": {"train_tokens": tokens, "index_tokens": tokens // 4, "evaluation_tokens": 5000, "storage": storage},
        "training": {"methods": ["bagged"], "members": members, "tokens": 3 * tokens, "device": "cpu"},
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", RunSettings.model_validate(settings))
        began = time.perf_counter()
        pipeline.train(run)
        whole = time.perf_counter() - began
        seconds["wait"] = run.facts("train/bagged")["wait_seconds"]
    if storage == "stream" and made == "default":
        # Without a thread the step waits while the model runs, so these seconds would be counted twice.
        seconds["wait"] -= min(seconds["wait"], seconds["forward"])
    seconds["rest"] = max(0.0, whole - sum(seconds.values()))
    return {**seconds, "whole": whole}


def main() -> None:
    """Measure every case in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=100_000, help="different tokens; three passes are made")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", nargs=2, metavar=("STORAGE", "MADE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case, options.tokens, options.members)))
        return
    results = []
    print("| storage, batches made | seconds |", " | ".join(PARTS), "|")
    print("|---" * (len(PARTS) + 2) + "|")
    for storage, made in CASES:
        words = ["--tokens", str(options.tokens), "--members", str(options.members), "--case", storage, made]
        done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
        seconds = json.loads(done.stdout.splitlines()[-1])
        results.append({"storage": storage, "made": made, "seconds": seconds})
        shares = [f"{seconds.get(part, 0.0) / seconds['whole']:.1%}" for part in PARTS]
        print(f"| {storage}, {made} | {seconds['whole']:.1f} |", " | ".join(shares), "|", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
