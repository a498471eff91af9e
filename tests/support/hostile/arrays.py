"""Faulty arrays of activations, and faulty tables beside them."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from command_line import Outcome, call
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

from hostile.campaign import DEEP, Case, Fate, World, damages, fifo

ROWS, D = 60, 5


class _Code:
    """What would leave a file behind if it were ever unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.proof,))


def acts(rows: int = ROWS, width: int = D) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


def _training(run: Path, *words: object) -> Outcome:
    """Train a tiny run; what is refused must leave nothing behind but the settings that are to be corrected."""
    tiny = ("--width", 8, "--k", 2, "--methods", "single", "--tokens", 100, "--device", "cpu")
    outcome = call("train", run, *words, *tiny, "--set", "training.batch_size=20", "--set", "training.kernels=plain")
    left = [file for file in run.rglob("*") if file.is_file() and file.name != "run.json"] if run.exists() else []
    assert outcome.code == 0 or not left, f"left {left}"
    return outcome


def _case(world: World, name: str, files: list[Path], *words: object, fate: Fate = "refused", says: str = "") -> Case:
    given = [word for file in files for word in ("--activations", file)]
    run = world.new()
    kept = tuple(file for file in files if file.is_file() and not file.is_symlink())
    return Case(f"arrays: {name}", lambda: _training(run, *given, *words), fate, (says or str(files[0]),), kept)


def array_files(world: World) -> Iterator[Case]:
    """Files of activations that cannot be used."""
    for suffix, write in WHOLE.items():
        file = world.new(suffix)
        write(file)
        yield _case(world, f"whole {suffix}", [file], fate="done")
        for number in range(len(list(damages(file, world.chance)))):
            copy = world.new(suffix)
            write(copy)
            what, damage = list(damages(copy, world.chance))[number]
            damage()
            yield _case(
                world, f"{suffix} {what}", [copy], fate="either" if what in ("scrambled", "zeroed") else "refused"
            )
    for name, write, says in NUMPY:
        file = world.new(".npy")
        np.save(file, write())
        yield _case(world, name, [file], says=says)
    yield from _unpickled(world)
    yield from _of_tensors(world)
    yield from _of_columns(world)
    yield from _of_several(world)


def _unpickled(world: World) -> Iterator[Case]:
    proof = world.new()
    for suffix, save in ((".npy", np.save), (".npz", np.savez)):
        file = world.new(suffix)
        save(file, np.array([[_Code(proof)]], object), allow_pickle=True)
        yield _case(world, f"pickled code in {suffix}", [file], says="pickled Python objects")
    file = world.new(".npy")
    file.write_bytes(pickle.dumps(_Code(proof)))
    yield _case(world, "a pickle that is called .npy", [file])
    file = world.new(".pkl")
    file.write_bytes(pickle.dumps(_Code(proof)))
    yield _case(world, "a pickle", [file], says="no known format")

    def still() -> Outcome:
        return Outcome(0, "", "") if not proof.exists() else Outcome(1, "", "the pickle was run")

    yield Case("arrays: no pickle was run", still, "done")


def _of_tensors(world: World) -> Iterator[Case]:
    tensors = {
        "two tensors": ({"a": torch.zeros(9, 3), "b": torch.zeros(9, 3)}, (), "origin.field=NAME"),
        "no tensor": ({}, (), "0 tensors"),
        "a tensor that is not there": ({"a": torch.zeros(9, 3)}, ("--set", "origin.field=b"), "no tensor 'b'"),
        "complex numbers": ({"a": torch.zeros(9, 3, dtype=torch.complex64)}, (), "not real numbers"),
        "three axes": ({"a": torch.zeros(9, 3, 2)}, (), "[9, 3, 2]"),
        "one axis": ({"a": torch.zeros(9)}, (), "[9]"),
        "not finite in bfloat16": ({"a": torch.full((30, 3), torch.inf, dtype=torch.bfloat16)}, (), "row 1, number 1"),
    }
    for name, (content, words, says) in tensors.items():
        file = world.new(".safetensors")
        save_file(content, file)
        yield _case(world, name, [file], *words, says=says)
    heads: dict[str, Any] = {
        "beyond its end": {"a": {"dtype": "F32", "shape": [9, 3], "data_offsets": [0, 10**9]}},
        "with a negative place": {"a": {"dtype": "F32", "shape": [9, 3], "data_offsets": [-8, 108]}},
        "with a negative size": {"a": {"dtype": "F32", "shape": [-9, -3], "data_offsets": [0, 108]}},
        "of too many rows": {"a": {"dtype": "F32", "shape": [10**12, 3], "data_offsets": [0, 108]}},
        "without a shape": {"a": {"dtype": "F32", "data_offsets": [0, 108]}},
        "of lists": [1, 2],
    }
    for name, head in heads.items():
        file, text = world.new(".safetensors"), json.dumps(head).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(108))
        yield _case(world, f"a header {name}", [file])
    file = world.new(".safetensors")
    file.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP.encode())
    yield _case(world, "a header nested deeply", [file])
    file = world.new(".npz")
    np.savez(file, a=acts(), b=acts())
    yield _case(world, "two arrays", [file], says="origin.field=NAME")
    yield _case(world, "an array that is not there", [file], "--set", "origin.field=c", says="no array 'c'")
    file = world.new(".npz")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 5)})
        archive.writestr("a.npy", head.getvalue() + bytes(1000))
    yield _case(world, "a compressed array that is shorter than it says", [file], says="cut off")


def _of_columns(world: World) -> Iterator[Case]:
    lists = [list(map(float, row)) for row in acts()]
    tables: dict[str, tuple[dict[str, Any], str]] = {
        "lists of two lengths": ({"a": [*lists[:-1], [1.0]]}, "one width"),
        "a missing list": ({"a": [*lists[:-1], None]}, "without a list"),
        "a first list that is missing": ({"a": [None, *lists[1:]]}, "row 1"),
        "a missing number": ({"a": [*lists[:-1], [1.0, 2.0, None, 3.0, 4.0]]}, "missing numbers"),
        "two columns of lists": ({"a": lists, "b": lists}, "origin.field=NAME"),
        "words among its dimensions": ({"a": [1.0] * ROWS, "b": ["x"] * ROWS}, "column b"),
        "dimensions of two types": ({"a": [1.0] * ROWS, "b": [1] * ROWS}, "write all as one"),
        "a gap in a dimension": ({"a": [1.0] * ROWS, "b": [*[1.0] * (ROWS - 1), None]}, "missing numbers"),
        "no column": ({}, "empty"),
        "no row": ({"a": pa.array([], pa.list_(pa.float32()))}, "empty"),
        "not a number in a list": ({"a": [*lists[:-1], [1.0, float("nan"), 1.0, 1.0, 1.0]]}, "finite"),
        "empty lists": ({"a": pa.array([[]] * ROWS, pa.list_(pa.float32()))}, "empty"),
    }
    for name, (columns, says) in tables.items():
        file = world.new(".parquet")
        pq.write_table(pa.table(columns), file)
        yield _case(world, name, [file], says=says)
    file = world.new(".parquet")
    pq.write_table(pa.table({"a": lists}), file)
    yield _case(world, "a column that is not there", [file], "--set", "origin.field=b", says="no column 'b'")


def _of_several(world: World) -> Iterator[Case]:
    one, wide, half = (world.new(".npy") for _ in range(3))
    for file, content in ((one, acts()), (wide, acts(width=6)), (half, acts().astype(np.float16))):
        np.save(file, content)
    yield _case(world, "two widths", [one, wide], says="6 numbers in a row")
    yield _case(world, "two types", [one, half], says="float16")
    yield _case(world, "one file twice", [one, one], says="given twice")
    yield _case(world, "a file that is not there", [one, one.with_name("missing.npy")], says="missing.npy")
    yield _case(world, "a field of a file that has none", [one], "--set", "origin.field=a", says="without a name")
    yield _case(world, "a width that k exceeds", [one], "--set", "sae.k=9", says="sae.k")
    empty = world.new()
    empty.mkdir()
    (empty / "notes.txt").write_text("nothing")
    yield _case(world, "a folder without arrays", [empty])
    (inner := world.new()).mkdir()
    np.save(inner / "a.npy", acts(3))
    yield _case(world, "three rows", [inner], fate="done")
    (single := world.new()).mkdir()
    np.save(single / "a.npy", acts(1))
    yield _case(world, "one row", [single], says="too few")
    yield _case(world, "a pipe", [fifo(world.new(".npy"))], says="pipe")
    link = world.new(".npy")
    link.symlink_to(link.name)
    yield _case(world, "a link to itself", [link])
    yield _case(world, "text beside arrays", [one], "--text", "a.csv", says="reads no text")
    yield _case(world, "a model beside arrays", [one], "--model", "gpt2", says="reads no text")


def row_tables(world: World) -> Iterator[Case]:
    """Tables beside activations that cannot be used."""
    file, images = world.new(".npy"), world.new()
    np.save(file, acts())
    images.mkdir()
    Image.new("RGB", (4, 4)).save(images / "a.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (images / "text.txt").write_text("no image")
    (images / "out.png").symlink_to(world.folder.parent)
    good: dict[str, list[Any]] = {"group": [f"g{number % 7}" for number in range(ROWS)], "label": list("ab") * 30}

    def case(name: str, columns: dict[str, list[Any]], *words: object, says: str, fate: Fate = "refused") -> Case:
        table = world.new(".parquet" if name.startswith("Parquet") else ".csv")
        frame = pd.DataFrame(columns)
        frame.to_parquet(table) if table.suffix == ".parquet" else frame.to_csv(table, index=False)
        made = _case(world, f"table: {name}", [file], "--rows", table, *words, fate=fate, says=says)
        return Case(made.name, made.act, made.fate, made.says, (*made.kept, table))

    yield case("whole", good, says="", fate="done")
    yield case("a row too few", {name: values[:-1] for name, values in good.items()}, says="59 rows")
    yield case("a row too many", {name: [*values, "a"] for name, values in good.items()}, says="61 rows")
    yield case("as many rows as numbers in a row", {"label": list("abcab")}, says="wrong order")
    yield case("no rows", {"label": []}, says="0 rows")
    for role in ("id", "group", "position", "text", "image", "signal"):
        yield case(f"no column {role}", good, "--set", f"origin.{role}=missing", says="no column 'missing'")
    yield case("no label column", good, "--set", 'origin.labels=["missing"]', says="no column 'missing'")
    one, words = {**good, "one": ["x"] * ROWS}, ("--set", 'origin.labels=["one"]')
    yield case("a label of one value", one, *words, says="labels nothing")
    yield case("a column for two things", good, "--set", "origin.id=group", says="two things")
    yield case("a group that is missing", {**good, "group": ["", *good["group"][1:]]}, says="empty in row 1")
    for what, value in (
        ("words", "soon"),
        ("nothing", ""),
        ("infinity", "inf"),
        ("a date of no calendar", "2026-13-45"),
    ):
        yield case(f"a time that is {what}", {**good, "time": [*map(str, range(ROWS - 1)), value]}, says=f"row {ROWS}")
    for what, values, says in (
        ("Parquet with a signal of two lengths", [[1.0], *[[1.0, 2.0]] * 59], "different lengths"),
        ("a signal of words", ["x"] * ROWS, "no number"),
        ("a signal that is not finite", ["nan", *["1"] * 59], "row 1"),
    ):
        yield case(what, {**good, "s": values}, "--set", "origin.signal=s", says=says)
    for what, name, says in IMAGES:
        columns = {"image": ["a.png", name or "", *["a.png"] * (ROWS - 2)]}
        yield case(f"an image {what}", columns, "--images", images, says=says)
    yield case("images without a folder", {"image": ["a.png"] * ROWS}, says="--images FOLDER")
    named = {"image": ["a.png"] * ROWS}
    yield case("images in a folder that is not there", named, "--images", images / "no", says="--images")
    yield _case(world, "table: one that is not there", [file], "--rows", file.with_name("no.csv"), says="no.csv")
    yield _case(world, "table: a folder", [file], "--rows", images, says=str(images))
    yield _case(world, "table: an array", [file], "--rows", file, says="no known format")
    yield _case(world, "table: a column without one", [file], "--set", "origin.group=g", says="--rows FILE")
    yield _case(world, "table: images without one", [file], "--images", images, says="--rows FILE")
    for number in range(len(list(damages(world.text, world.chance)))):
        table = world.new(".csv")
        pd.DataFrame(good).to_csv(table, index=False)
        what, damage = list(damages(table, world.chance))[number] if number < 8 else ("", lambda: None)
        damage()
        if what:
            fate: Fate = "either" if what == "scrambled" else "refused"
            yield _case(world, f"table: {what}", [file], "--rows", table, fate=fate, says=str(table))


IMAGES = (
    ("outside of the folder", "../input.npy", "outside of"),
    ("by an absolute path", "/etc/passwd", "outside of"),
    ("by a link out of the folder", "out.png", "outside of"),
    ("at an address", "http://localhost:1/a.png", "never fetched"),
    ("in an address of its own", "data:image/png;base64,AAAA", "never fetched"),
    ("that is not there", "b.png", "no file under"),
    ("that is a folder", ".", "no file under"),
    ("that is no image", "text.txt", "no image"),
    ("that is damaged", "broken.png", "cannot be read as an image"),
    ("without a name", "", "is empty"),
    ("with a very long name", "a" * 5000 + ".png", "no"),
)
NUMPY: list[tuple[str, Callable[[], NDArray[Any]], str]] = [
    ("one axis", lambda: np.zeros(9, np.float32), "[9]"),
    ("three axes", lambda: np.zeros((9, 2, 3), np.float32), "[9, 2, 3]"),
    ("no axis", lambda: np.array(1.0), "[]"),
    ("no rows", lambda: np.zeros((0, 3), np.float32), "empty"),
    ("no numbers in a row", lambda: np.zeros((9, 0), np.float32), "empty"),
    ("complex numbers", lambda: np.zeros((9, 3), np.complex64), "complex64"),
    ("words", lambda: np.full((9, 3), "a"), "not real numbers"),
    ("dates", lambda: np.zeros((9, 3), "datetime64[s]"), "not real numbers"),
    ("records", lambda: np.zeros((9, 3), [("a", "<f4"), ("b", "<f4")]), "not real numbers"),
    ("two bytes without a type", lambda: np.zeros((9, 3), "V2"), "bfloat16"),
    ("not a number", lambda: np.where(np.eye(40, 3) > 0, np.nan, 1).astype(np.float32), "row 1, number 1"),
    ("infinity", lambda: np.where(np.eye(40, 3, -7) > 0, np.inf, 1).astype(np.float16), "row 8, number 1"),
    ("beyond float32", lambda: np.full((40, 3), 1e300), "too large for float32"),
]


def _parquet(path: Path) -> None:
    pq.write_table(pa.table({"acts": list(acts())}), path)


def _arrow(path: Path) -> None:
    table = pa.table({"acts": list(acts())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


WHOLE: dict[str, Callable[[Path], object]] = {
    ".npy": lambda path: np.save(path, acts()),
    ".npz": lambda path: np.savez(path, acts()),
    ".safetensors": lambda path: save_file({"a": torch.from_numpy(acts())}, path),
    ".parquet": _parquet,
    ".arrow": _arrow,
}
