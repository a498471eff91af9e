"""The activation index against SAEDashboard's feature data: same model, SAE and tokens, each in a process of its own.

SAEDashboard runs the model and the whole encoder again for every batch of features. It is measured on one batch of its
own default size and extrapolated to all features; ours is measured on all of them. Both take turns, for medians.

    python benchmarks/index.py --peer ../peers/bin/python --json index.json

The peer's interpreter needs torch, sae-lens and sae-dashboard; without --peer only ours runs, on random activations.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

D_IN, CONTEXT, VOCABULARY, LAYERS = 192, 128, 10_240, 4
HOOK = f"blocks.{LAYERS - 1}.hook_resid_post"
BATCH = 64
"""Sequences that SAEDashboard runs at a time by default."""
CHECKED = 64
"""Features whose 20 largest activations are compared with a brute-force pass."""
ANSWERED = 100
"""Features that the questions are asked about."""


def peer_model() -> Any:
    """A language model of random weights, the same in every process."""
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=LAYERS, d_model=D_IN, n_ctx=CONTEXT, d_head=64, n_heads=3, d_mlp=4 * D_IN, d_vocab=VOCABULARY,
        act_fn="gelu", seed=0, device="cpu",
    )  # fmt: skip
    model = HookedSAETransformer(config).eval()
    # Activations and logits of usual size: where they are all below 0.3, SAEDashboard draws 10⁵ ticks into a histogram.
    for table in (model.embed.W_E, model.unembed.W_U):
        table.data.div_(table.std())
    return model


def write_activations(folder: Path) -> dict[str, float]:
    """(Peer) Run the model once over all tokens and keep what the SAE reads."""
    import torch

    tokens = torch.from_numpy(np.load(folder / "tokens.npy"))
    model = peer_model()
    with torch.inference_mode():
        model(tokens[:BATCH], stop_at_layer=LAYERS)
        began = time.perf_counter()
        blocks = [model(batch, stop_at_layer=LAYERS).flatten(0, 1) for batch in tokens.split(BATCH)]
        seconds = time.perf_counter() - began
    np.save(folder / "acts.npy", torch.cat(blocks).numpy())
    return {"seconds": seconds}


def make_dashboard(folder: Path, features: int) -> dict[str, float]:
    """(Peer) SAEDashboard's data of the first features, with its default options."""
    import torch
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import SAE

    tokens, model = torch.from_numpy(np.load(folder / "tokens.npy")), peer_model()
    sae = SAE.load_from_disk(str(folder / "sae"))
    sae.cfg.rescale_acts_by_decoder_norm = True  # changes nothing, as atoms have norm 1; without it, it refuses TopK
    config = SaeVisConfig(hook_point=HOOK, features=range(features))
    began = time.perf_counter()
    data = SaeVisRunner(config).run(encoder=sae, model=model, tokens=tokens)
    seconds = time.perf_counter() - began
    data.save_json(folder / "feature_data.json")
    written = time.perf_counter() - began - seconds
    return {"seconds": seconds, "written": written, "bytes": (folder / "feature_data.json").stat().st_size}


class Stopwatch:
    """Seconds that calls of functions take, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its calls added up."""

        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            return result

        return timed


def build(folder: Path) -> dict[str, Any]:
    """(Ours) Build the index of all features."""
    from sae_core.analysis.index import activation_index as indexing
    from sae_core.ensembles.ensemble import Ensemble
    from sae_core.sae.formats.saelens import load_sae
    from sae_core.training.kernels import frozen

    acts_TD = np.load(folder / "acts.npy", mmap_mode="r")
    ensemble = Ensemble([load_sae(folder / "sae")], wiring="parallel", weights=[1.0])
    indexing.build_index(ensemble, reader(acts_TD), 100, folder / "warm.safetensors")  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch, path = Stopwatch(), folder / "index.safetensors"

    class TimedEncoder(frozen.FrozenEncoder):
        __call__ = watch.timing("encoder", frozen.FrozenEncoder.__call__)

    frozen.FrozenEncoder = TimedEncoder
    indexing.write_placed = watch.timing("place", indexing.write_placed)
    began = time.perf_counter()
    indexing.build_index(ensemble, reader(acts_TD), len(acts_TD), path)
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        **watch.seconds,
        "peak_bytes_above_start": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "bytes": path.stat().st_size,
    }


def ask(folder: Path) -> dict[str, Any]:
    """(Ours) Check the index, and time the answers to questions."""
    from sae_core.ensembles.ensemble import Ensemble
    from sae_core.sae.formats.saelens import load_sae

    path, ensemble = folder / "index.safetensors", Ensemble([load_sae(folder / "sae")], wiring="parallel")
    checked = check(path, ensemble, np.load(folder / "acts.npy", mmap_mode="r"))
    return {"checked": checked, "milliseconds": answer(path, ensemble, np.load(folder / "tokens.npy"))}


def reader(acts_TD: Any) -> Callable[[int, int], Any]:
    """What reads rows of an array."""
    import torch

    return lambda start, stop: torch.from_numpy(np.array(acts_TD[start:stop]))


def sampled(index: Any, count: int) -> list[int]:
    """Features that fire at least 20 times, at random."""
    alive = np.flatnonzero(index.counts >= 20)
    return np.random.default_rng(0).choice(alive, min(count, len(alive)), replace=False).tolist()


def check(path: Path, ensemble: Any, acts_TD: Any) -> int:
    """Compare the 20 largest activations of features with those of a dense pass; how many features were equal."""
    import torch

    from sae_core.analysis.index.activation_index import ActivationIndex
    from sae_core.analysis.index.examples import strongest

    index = ActivationIndex.open(path)
    features, read = sampled(index, CHECKED), reader(acts_TD)
    with torch.inference_mode():
        starts = range(0, len(acts_TD), 1024)
        dense = [ensemble.encode(read(start, start + 1024))[:, features] for start in starts]
    dense_TS = torch.cat(dense).numpy()
    for feature, dense_T in zip(features, dense_TS.T, strict=True):
        positions, values = index.feature(feature)
        top = strongest(values, 20)
        expected = strongest(dense_T, 20)
        np.testing.assert_allclose(values[top], dense_T[expected], rtol=1e-4)
        # Rounding may swap two neighbours; whatever the index calls one of the 20 is one to within rounding.
        np.testing.assert_allclose(dense_T[positions[top]], dense_T[expected], rtol=1e-4)
    return len(features)


def answer(path: Path, ensemble: Any, tokens: Any) -> dict[str, float]:
    """Milliseconds a feature for everything that a page about it asks."""
    import pandas as pd
    import torch

    from sae_core.activations.corpus import Corpus
    from sae_core.activations.origins.text.token_texts import TokenTexts
    from sae_core.analysis.atoms.logit_lens import promoted_tokens
    from sae_core.analysis.index.activation_index import ActivationIndex
    from sae_core.analysis.index.examples import co_active, histogram, quantile_examples, top_examples

    index = ActivationIndex.open(path)
    offsets = np.arange(0, tokens.size + 1, tokens.shape[1])
    documents = pd.DataFrame({"number": np.arange(len(offsets) - 1)})
    corpus = Corpus(tokens.ravel().astype(np.int32), offsets, documents, TokenTexts())
    questions: dict[str, Callable[[int], Any]] = {
        "index.count (density)": index.count,
        "histogram": lambda feature: histogram(index.feature(feature)[1], 50),
        "top_examples": lambda feature: top_examples(index, corpus, feature, count=20, window=5),
        "quantile_examples": lambda feature: quantile_examples(
            index, corpus, feature, quantiles=10, per_quantile=5, window=5
        ),
        "co_active": lambda feature: co_active(index, feature, 3),
    }
    features, milliseconds = sampled(index, ANSWERED), {}
    for name, question in questions.items():
        question(features[0])
        began = time.perf_counter()
        for feature in features:
            question(feature)
        milliseconds[name] = 1000 * (time.perf_counter() - began) / len(features)
    lens = {"unembed_VD": torch.randn(VOCABULARY, D_IN), "norm_weight_D": torch.ones(D_IN)}
    began = time.perf_counter()
    promoted_tokens(ensemble, lens, corpus.texts)
    milliseconds["promoted_tokens (all features at once)"] = 1000 * (time.perf_counter() - began) / index.features
    return milliseconds


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "activations": write_activations,
    "dashboard": make_dashboard,
    "build": build,
    "ask": ask,
}


def run(interpreter: str, worker: str, folder: Path, *numbers: int, turn: int = 0) -> dict[str, Any]:
    """What a worker answers from a fresh process, or has answered before."""
    known = folder / f"{worker}_{turn}.json"
    if known.exists():
        return dict(json.loads(known.read_text(encoding="utf-8")))
    command = [interpreter, __file__, "--worker", worker, str(folder), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{worker} ended early:\n{done.stderr[-3000:]}")
    known.write_text(done.stdout, encoding="utf-8")
    return dict(json.loads(done.stdout))


def prepare(folder: Path, width: int, k: int) -> None:
    """Write the SAE: random atoms, and the activations' mean as the bias, so that many features are alive."""
    import torch

    from sae_core.sae import TopKSAE
    from sae_core.sae.formats.saelens import save_sae

    sae = TopKSAE(D_IN, width, k=k, seed=0)
    with torch.no_grad():
        sae.b_dec.copy_(torch.from_numpy(np.load(folder / "acts.npy")).mean(dim=0))
    save_sae(sae, folder / "sae")


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def measure(folder: Path, peer: str, *, width: int, k: int, tokens: int, features: int, turns: int) -> dict[str, Any]:
    """Everything about one size."""
    generator = np.random.default_rng(0)
    if not (folder / "tokens.npy").exists():
        np.save(folder / "tokens.npy", generator.integers(0, VOCABULARY, (tokens // CONTEXT, CONTEXT)))
    if not peer and not (folder / "acts.npy").exists():
        np.save(folder / "acts.npy", generator.standard_normal((tokens, D_IN), np.float32))
    forwards, builds, dashboards = [], [], []
    for turn in range(turns):
        if peer:
            forwards.append(run(peer, "activations", folder, turn=turn))
        if not (folder / "sae").exists():
            prepare(folder, width, k)
        builds.append(run(sys.executable, "build", folder, turn=turn))
        if peer:
            dashboards.append(run(peer, "dashboard", folder, features, turn=turn))
    row: dict[str, Any] = {"width": width, "k": k, "tokens": tokens, "d_in": D_IN, "turns": turns}
    row["ours"] = {**medians(builds), **run(sys.executable, "ask", folder)}
    if peer:
        scale = width / features
        row["forward_seconds"] = medians(forwards)["seconds"]
        row["theirs"] = {**medians(dashboards), "features": features}
        row["theirs"]["seconds_extrapolated"] = scale * row["theirs"]["seconds"]
        pairs = [
            (forward["seconds"], ours["seconds"], scale * theirs["seconds"])
            for forward, ours, theirs in zip(forwards, builds, dashboards, strict=True)
        ]
        row["times"] = {
            "with forward": statistics.median(theirs / (forward + ours) for forward, ours, theirs in pairs),
            "without": statistics.median(theirs / ours for _, ours, theirs in pairs),
        }
    return row


def report(row: dict[str, Any]) -> str:
    """A row as text."""
    ours, width = row["ours"], row["width"]
    shares = ", ".join(f"{name} {ours[name] / ours['seconds']:.1%}" for name in ("encoder", "place"))
    lines = [
        f"{row['tokens']} tokens, d {row['d_in']}, {width} features, k {row['k']}",
        f"ours: {ours['seconds']:.1f} s for all features ({shares}), {ours['bytes'] / width / 1000:.2f} kB a feature,"
        f" {ours['peak_bytes_above_start'] / 1e6:.0f} MB; top 20 of {ours['checked']} features equal a dense pass",
        *(f"  {name}: {value:.3f} ms a feature" for name, value in ours["milliseconds"].items()),
    ]
    if "theirs" in row:
        theirs = row["theirs"]
        kilobytes = theirs["bytes"] / theirs["features"] / 1000
        lines += [
            f"model's forward pass, once: {row['forward_seconds']:.1f} s",
            f"SAEDashboard: {theirs['seconds']:.1f} s for {theirs['features']} features, extrapolated"
            f" {theirs['seconds_extrapolated']:.0f} s for all, {kilobytes:.1f} kB each",
            f"times as fast: {row['times']['with forward']:.0f} with the forward pass, {row['times']['without']:.0f}"
            " without it in ours",
        ]
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peer", default="", help="Python interpreter that has SAEDashboard.")
    parser.add_argument("--width", type=int, default=16_384)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--features", type=int, default=256, help="Features that SAEDashboard is measured on.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Keep everything there; what it holds is not measured again.")
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, folder, *numbers = options.worker
        with redirect_stdout(sys.stderr):
            answered = WORKERS[name](Path(folder), *map(int, numbers))
        print(json.dumps(answered))
        return
    size = {name: getattr(options, name) for name in ("width", "k", "tokens", "features", "turns")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        row = measure(folder, options.peer, **size)
    print(report(row))
    if options.json:
        options.json.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
