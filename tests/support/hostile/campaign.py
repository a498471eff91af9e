"""What every malformed input is tried with: a case, how it is run, and what may come of it.

A command must end with one sentence and exit code 2, or do what it was asked to. Either way no file that was there
before changes, but for those that the command is there to write, and nobody waits for a minute.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from command_line import Outcome, call

from sae_core.foundation.errors import UserError

SEED = 20_261
LONGEST = 60.0
"""Seconds that nobody may wait for longer."""
DEEP = "[" * 100_000 + "]" * 100_000
HUGE = str(2**70)

Fate = Literal["refused", "done", "either"]


@dataclass(frozen=True, slots=True)
class Case:
    """One malformed input.

    Attributes:
        name: What is wrong with it.
        act: Gives it to the program.
        fate: Whether the program must refuse it, must do with it, or may do either.
        says: Words of which the sentence must hold one, if it is refused.
        kept: Files and folders that must be as they were.
    """

    name: str
    act: Callable[[], Outcome]
    fate: Fate = "refused"
    says: tuple[str, ...] = ()
    kept: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """What cases are made from. None of it is changed; what a case needs to damage is copied first.

    Attributes:
        folder: An empty folder for the files of the cases.
        model: A small model in transformers format.
        text: JSON lines with ``text`` and ``label``.
        run: A finished run of that model and text.
        chance: The source of all that is random.
    """

    folder: Path
    model: Path
    text: Path
    run: Path
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))

    def new(self, suffix: str = "") -> Path:
        """A path at which there is nothing, in a folder of its own."""
        place = self.folder / f"case_{len(list(self.folder.iterdir())):04d}"
        place.mkdir()
        return place / f"input{suffix}"

    def training(self, **options: object) -> tuple[object, ...]:
        """The words that train a tiny run, with other options in place of some of them."""
        chosen = {"model": self.model, "text": self.text, "layer": 1, "width": 16, "k": 2, "methods": "single"}
        chosen |= {"tokens": 256, "device": "cpu", **options}
        tiny = {
            "data.train_tokens": 2000,
            "data.index_tokens": 1000,
            "data.evaluation_tokens": 200,
            "model.context": 64,
            "training.batch_size": 64,
        }
        words = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value)]
        return (*words, *(word for name, value in tiny.items() for word in ("--set", f"{name}={value}")))


def attempt(act: Callable[[], object]) -> Outcome:
    """What a function comes to, told as a command would tell it."""
    try:
        act()
    except UserError as error:
        return Outcome(2, "", f"Error: {error}")
    return Outcome(0, "", "")


def command(*words: object) -> Callable[[], Outcome]:
    """A call of the command line."""
    return lambda: call(*words)


def complaints(case: Case) -> list[str]:
    """Try a case; what is wrong with what came of it, which is nothing where all is well."""
    before, began = snapshot(case.kept), time.perf_counter()
    try:
        outcome = case.act()
    except Exception as error:  # whatever a command lets through is a fault
        return [f"{case.name}: {type(error).__name__}: {str(error)[:300]}"]
    seconds = time.perf_counter() - began
    found = [*judge(case, outcome), *(f"changed {path}" for path in changed(before, snapshot(case.kept)))]
    if seconds > LONGEST:
        found.append(f"took {seconds:.0f} s")
    return [f"{case.name}: {what}" for what in found]


def judge(case: Case, outcome: Outcome) -> Iterator[str]:
    """What is wrong with how a command ended."""
    lines = outcome.err.strip().splitlines()
    if "Traceback" in outcome.err:
        yield f"traceback: {lines[-1][:300]}"
    if outcome.code == 0:
        if case.fate == "refused":
            yield f"was done; it must be refused (last line: {lines[-1:]})"
        return
    if case.fate == "done":
        yield f"was refused ({lines[-1:]}); it must be done"
    if outcome.code != 2:
        yield f"exit code {outcome.code}"
    sentences = [line for line in lines if line.startswith("Error: ")]
    if len(sentences) != 1 or sentences != lines[-1:] or not sentences[0].endswith("."):
        yield f"not one sentence at the end: {outcome.err[-300:]!r}"
    elif case.says and not any(word in sentences[0] for word in case.says):
        yield f"names none of {case.says}: {sentences[0][:300]}"


def snapshot(places: Iterable[Path]) -> dict[Path, str]:
    """A hash of every file in some places, by path."""
    found = {}
    for place in places:
        for path in [place, *sorted(place.rglob("*"))] if place.is_dir() else [place]:
            if path.is_symlink() or not path.is_file():
                found[path] = "link" if path.is_symlink() else "folder" if path.is_dir() else "none"
            elif stat.S_ISREG(path.stat().st_mode):
                found[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def changed(before: dict[Path, str], after: dict[Path, str]) -> list[Path]:
    """Paths that were there before and are no longer, or no longer the same."""
    return [path for path, content in before.items() if after.get(path) != content]


def scrambled(content: bytes, chance: random.Random) -> bytes:
    """Content with some bytes replaced, left out and put in."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 12)):
        if not data:
            break
        at = chance.randrange(len(data))
        kind = chance.randrange(3)
        if kind == 0:
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at : at + chance.randint(1, 40)]
        else:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
    return bytes(data)


def damages(path: Path, chance: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    """Ways to damage a file, each with its name."""
    content = path.read_bytes()

    def replace(by: bytes) -> Callable[[], None]:
        return lambda: (path.write_bytes(by), None)[1]

    def folder() -> None:
        path.unlink()
        path.mkdir()

    def loop() -> None:
        path.unlink()
        path.symlink_to(path.name)

    yield "deleted", path.unlink
    yield "halved", replace(content[: len(content) // 2])
    yield "emptied", replace(b"")
    yield "zeroed", replace(bytes(len(content)))
    yield "of random bytes", replace(chance.randbytes(len(content)))
    yield "scrambled", replace(scrambled(content, chance))
    yield "a folder", folder
    yield "a link to itself", loop
    if path.suffix == ".json":
        yield "deeply nested", replace(DEEP.encode())
        yield "a list", replace(b"[]")
        yield "null", replace(b"null")
        yield "an object with nothing in it", replace(b"{}")
        yield "not finite", replace(b'{"a": NaN, "b": Infinity, "c": 1e999}')
        yield "a huge number", replace(HUGE.encode())


def fifo(path: Path) -> Path:
    """A named pipe to which nobody writes, so that reading it would never end."""
    os.mkfifo(path)
    return path


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder."""
    return Path(shutil.copytree(folder, to))
