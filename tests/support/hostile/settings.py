"""Impossible settings: each with values of the wrong kind and size, and files without settings."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from hostile.campaign import DEEP, HUGE, Case, Fate, World, command, scrambled
from sae_core.foundation.settings.run_settings import RunSettings

WRONG = {
    "true": "true",
    "not a number": "nan",
    "infinite": "inf",
    "minus one": "-1",
    "huge": HUGE,
    "a fraction": "0.5",
    "empty": '""',
    "a word": '"nonsense word"',
    "a list in a list": "[[1]]",
    "a table": "{a = 1}",
    "a date": "2026-01-01",
    "half a pair": '"\udcff"',
}


def _kinds(annotation: Any) -> set[type]:
    """The plain types that a field takes."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        arguments = typing.get_args(annotation)
        return set().union(*(_kinds(a) for a in (arguments[:1] if origin is typing.Annotated else arguments)))
    if origin is typing.Literal:
        return {typing.Literal}  # type: ignore[arg-type]
    return {origin or annotation}


def _fate(kinds: set[type], wrong: str) -> Fate:
    """What must come of a value of the wrong kind."""
    if wrong in ("a list in a list", "a table", "a date", "half a pair"):
        return "refused"
    if kinds & {int, float}:
        if wrong == "a fraction":
            return "either" if float in kinds else "refused"
        return "either" if float in kinds and wrong == "huge" else "refused"
    if bool in kinds:
        return "either" if wrong == "true" else "refused"
    if str in kinds:
        return "either" if wrong in ("a word", "empty") else "refused"
    return "refused"


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """(dotted name, field) of every setting."""
    for section, table in RunSettings.model_fields.items():
        if section != "origin":  # one of several tables, whose kind says which
            for name, info in table.annotation.model_fields.items():  # type: ignore[union-attr]
                yield f"{section}.{name}", info


def single_settings(world: World) -> Iterator[Case]:
    """One setting after the other."""
    missing, nowhere = world.new(".jsonl"), world.new()
    for dotted, info in fields():
        for name, value in WRONG.items():
            fate = _fate(_kinds(info.annotation), name)
            run = world.new()
            words = ("train", run, *world.training(text=missing, model=nowhere), "--set", f"{dotted}={value}")
            # With settings that can be meant, the model is what is missing; so a sentence must name the setting.
            says = (dotted, dotted.split(".")[1]) if fate == "refused" else ()
            yield Case(f"--set {dotted} {name}", command(*words), "refused", says, (run.parent,))


def combinations(world: World) -> Iterator[Case]:
    """Settings that are wrong together, and words that are no settings."""
    missing, nowhere = world.new(".jsonl"), world.new()
    for assignment, says in {
        "training.methods=[]": "methods",
        'training.methods=["single", "single"]': "methods",
        'training.methods=["single", "bagged", "single"]': "methods",
        "training.seed=4294967296": "seed",
        "training.member_seeds=[0, 1, 2, 4294967296]": "seeds",
        "training.member_seeds=[0, 0, 1, 2]": "seed",
        "training.member_k=[1, 2]": "member_k",
        "training.member_k=[]": "member_k",
        "truth.seed=4294967296": "seed",
        "training.beta1=1.0": "beta1",
        "training.beta2=1": "beta2",
        "training.beta1=-0.1": "beta1",
        "training.learning_rate=0": "learning_rate",
        "training.warmup=0.9999999999": "",
        "model.context=0": "context",
        "model.context=1": "context",
        "model.batch_size=0": "batch_size",
        "sae.k=17": "sae.k",
        "sae.width=0": "width",
        "sae.bandwidth=0": "bandwidth",
        "data.train_tokens=0": "train_tokens",
        "evaluation.concept_features=[0]": "concept_features",
        "evaluation.concept_features=[]": "concept_features",
        "training.device=gpu": "device",
        "training.device=cuda:-1": "device",
        "=1": "=1",
        "sae.=1": "sae.",
        ".k=1": ".k",
        "sae.k": "sae.k",
        "sae.k.k=1": "sae.k",
        "sae=1": "sae",
        "": "empty",
        f"sae.k={DEEP}": "nested",
        f"training.member_k={DEEP}": "nested",
        "sae.k=1\nsae.width=2": "sae.k",
        "sae.__class__=1": "__class__",
    }.items():
        run = world.new()
        words = ("train", run, *world.training(text=missing, model=nowhere), "--set", assignment)
        shown = assignment if len(assignment) < 60 else f"{assignment[:30]}…"
        yield Case(f"--set {shown}", command(*words), "refused", (says,), (run.parent,))


def settings_files(world: World) -> Iterator[Case]:
    """Files of settings."""
    good = b'[sae]\nk = 2\nwidth = 16\n[training]\nmethods = ["single"]\n'
    contents = {
        "empty": b"",
        "bytes": world.chance.randbytes(500),
        "bad UTF-8": good + b"\xff\xfe",
        "a NUL": good + b"\0",
        "cut off": good[:-4],
        "a key twice": b"[sae]\nk = 1\nk = 2\n",
        "a section twice": b"[sae]\nk = 1\n[sae]\nwidth = 2\n",
        "an unknown section": b"[saes]\nk = 1\n",
        "a section that is a number": b"sae = 1\n",
        "a section that is a list": b"[[sae]]\nk = 1\n",
        "JSON": b'{"sae": {"k": 1}}',
        "deeply nested": b"a = " + DEEP.encode(),
        "a huge number": f"[training]\nlearning_rate = {HUGE}{HUGE}\nmembers = {HUGE}\n".encode(),
        "true for a number": b"[training]\nlearning_rate = true\n",
        "not a number": b"[training]\nlearning_rate = nan\n",
        **{f"scrambled {n}": scrambled(good, world.chance) for n in range(12)},
    }
    missing = world.new(".jsonl")
    for name, content in contents.items():
        path, run = world.new(".toml"), world.new()
        path.write_bytes(content)
        says = () if name in ("empty",) or "scrambled" in name else (path.name, "sae", "learning_rate", "members")
        words = ("train", run, *world.training(text=missing), "--config", path)
        yield Case(f"settings file: {name}", command(*words), "refused", says, (path.parent, run.parent))
    for name, place in {"a folder": world.folder, "a device": "/dev/null", "nothing": missing}.items():
        words = ("train", world.new(), *world.training(text=missing), "--config", place)
        yield Case(f"settings file: {name}", command(*words), "refused")


def arguments(world: World) -> Iterator[Case]:
    """Paths and names that are none."""
    names = {
        "bytes that are not UTF-8": "\udcff\udcfe",
        "a NUL": "a\0b",
        "nothing": "",
        "very long": "x" * 5000,
        "a line break": "a\nb",
        "a device": "/dev/null/run",
    }
    for name, text in names.items():
        for words in (
            ("info", text),
            ("index", text),
            ("evaluate", text),
            ("report", text),
            ("dashboard", text),
            ("labels", "export", text),
            ("labels", "import", world.run, text),
            ("evaluate", world.run, "--task", text),
            ("evaluate", world.run, "--retrain", text),
            ("train", world.new(), *world.training(text=text)),
            ("train", world.new(), *world.training(model=text)),
            ("train", world.new(), *world.training(), "--config", text),
            ("sweep", world.new(), "--vary", text),
            ("report", world.run, "--out", text),
            ("map", world.run, "--ensemble", text),
        ):
            shown = " ".join(str(word) for word in words[:2] if str(word) != text and "/" not in str(word))
            yield Case(f"{shown} … with {name}", command(*words), "refused", (), (world.run,))
