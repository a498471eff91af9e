"""Malformed texts and tables for training and for concepts."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from models import sample_texts

from hostile.campaign import DEEP, HUGE, Case, Fate, World, command, copied, fifo, scrambled

TEXTS = sample_texts(320, seed=9)
LABELS = ["page" if "the " in text else "plain" for text in TEXTS]
HALF = "\\ud83d"
"""Half of a surrogate pair, as JSON writes it."""

Rows = Callable[[Path], object]


def _jsonl(rows: list[str]) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def _row(number: int, **more: object) -> str:
    return json.dumps({"text": TEXTS[number], "label": LABELS[number], **more})


def _csv(separator: str = ",") -> bytes:
    rows = [f'"{text}"{separator}{label}' for text, label in zip(TEXTS, LABELS, strict=True)]
    return ("\n".join([f"text{separator}label", *rows]) + "\n").encode()


def _parquet(**columns: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": TEXTS, "label": LABELS, **columns}), sink)
    return bytes(sink.getvalue().to_pybytes())


def _pairs(columns: list[tuple[str, pa.Array]]) -> bytes:
    """A Parquet file whose columns may share a name."""
    sink = pa.BufferOutputStream()
    arrays, names = [array for _, array in columns], [name for name, _ in columns]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), sink)
    return bytes(sink.getvalue().to_pybytes())


WHOLE = {
    ".txt": "\n\n".join(TEXTS).encode(),
    ".md": "\n\n".join(f"# {text}" for text in TEXTS).encode(),
    ".jsonl": _jsonl([_row(number) for number in range(len(TEXTS))]),
    ".csv": _csv(),
    ".tsv": _csv("\t"),
    ".parquet": _parquet(),
}
"""One good file of each format."""


def _contents() -> Iterator[tuple[str, str, bytes, Fate]]:
    """(what is wrong, suffix, content, what must come of it)."""
    rows = [_row(number) for number in range(len(TEXTS))]
    for suffix, content in WHOLE.items():
        yield "good", suffix, content, "done"
        yield "empty", suffix, b"", "refused"
        yield "blank", suffix, b" \n\t\n \n", "refused"
        yield "only NULs", suffix, bytes(4096), "refused"
        yield "UTF-16", suffix, "\n".join(TEXTS).encode("utf-16"), "refused"
        yield "bad UTF-8", suffix, content[:3000] + b"\xff\xfe\xc3(" + content[3000:], "refused"
        yield "an archive", suffix, b"PK\x03\x04" + content, "either"
        yield "what a pickle begins with", suffix, b"\x80\x04\x95" + content, "refused"
        if suffix != ".parquet":
            yield "with a byte order mark", suffix, b"\xef\xbb\xbf" + content, "done"
            yield "with carriage returns", suffix, content.replace(b"\n", b"\r\n"), "done"
            yield "with a NUL inside", suffix, content[:500] + b"\0" + content[500:], "either"
        for other, foreign in WHOLE.items():
            if other != suffix and ".parquet" in (other, suffix):
                yield f"really {other}", suffix, foreign, "refused"
    for name, extra in {
        "half a surrogate pair": f'{{"text": "{HALF} {TEXTS[0]}", "label": "page"}}',
        "half a pair in another column": _row(0)[:-1] + f', "note": "{HALF}"}}',
        "NaN beside the text": _row(0)[:-1] + ', "score": NaN}',
        "infinity beside the text": _row(0)[:-1] + ', "score": 1e999}',
        "a huge number beside the text": _row(0)[:-1] + f', "score": {HUGE}}}',
        "an object beside the text": _row(0, more={"a": [1, {"b": None}]}),
        "NUL in a text": _row(0, text="a\0b " + TEXTS[0]),
        "a text of line breaks": _row(0, text="\n" * 5000),
        "a text of one letter": _row(0, text="a"),
        "a long word": _row(0, text="a" * 20_000),
        "a text of combining characters": _row(0, text="e" + "\u0301" * 5000),
        "an empty text": _row(0, text=""),
        "a text that is null": _row(0, text=None),
    }.items():
        yield name, ".jsonl", _jsonl([*rows[:50], extra, *rows[50:]]), "done"
    for name, extra in {
        "a text that is a number": _row(0, text=5),
        "a text that is a list": _row(0, text=["a"]),
        "a text that is an object": _row(0, text={"a": "b"}),
        "a text that is true": _row(0, text=True),
        "a row that is a list": "[1, 2]",
        "a row that is a string": '"text"',
        "a row that is cut off": rows[0][:20],
        "a row that is deeply nested": DEEP,
        "a column that is deeply nested": '{"text": "x", "more": ' + DEEP + "}",
        "a row without the column": '{"label": "page"}',
        "a key that stands twice": '{"text": "one", "text": "two", "label": "page"}',
        "a row of Python": "{'text': 'x'}",
    }.items():
        yield name, ".jsonl", _jsonl([*rows[:50], extra, *rows[50:]]), "refused"
    body = WHOLE[".csv"].split(b"\n", 1)[1]
    yield "only a header", ".csv", b"text,label\n", "refused"
    yield "no header", ".csv", body, "refused"
    yield "a column twice", ".csv", b"text,label,text\n" + body.replace(b"\n", b",other\n"), "refused"
    yield "a label column twice", ".csv", b"text,label,label\n" + body.replace(b"\n", b",other\n"), "refused"
    yield "names that differ in blanks", ".csv", b" text,label\n" + body, "refused"
    yield "too many cells in a row", ".csv", b"text,label\na,b,c,d\n" + body, "refused"
    yield "too few cells in a row", ".csv", b"text,label\na\n" + body, "refused"
    yield "a quote that is never closed", ".csv", b'text,label\n"never closed,page\n' + body, "either"
    yield "semicolons", ".csv", WHOLE[".csv"].replace(b",", b";"), "refused"
    yield "a header without names", ".csv", b",\n" + body, "refused"
    one = pa.array(TEXTS)
    yield "a column twice", ".parquet", _pairs([("text", one), ("label", pa.array(LABELS)), ("text", one)]), "refused"
    yield "no rows", ".parquet", _pairs([("text", one[:0]), ("label", one[:0])]), "refused"
    yield "no columns", ".parquet", _pairs([]), "refused"
    count = len(TEXTS)
    for name, column in {
        "dates": [datetime.date(1, 1, 1)] * count,
        "times": [datetime.datetime(9999, 12, 31)] * count,
        "decimals": [decimal.Decimal("1.5")] * count,
        "bytes": [b"\xff\xfe"] * count,
        "lists": [[1, None]] * count,
        "objects": [{"a": 1}] * count,
        "nothing": [None] * count,
        "not numbers": [float("nan")] * count,
    }.items():
        yield f"{name} beside the text", ".parquet", _parquet(more=column), "done"
        yield f"{name} as the text", ".parquet", _pairs([("text", pa.array(column)), ("label", one)]), "refused"
    bad = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"\xff\xfeok"))
    yield "bad UTF-8 as the text", ".parquet", _pairs([("text", bad), ("label", pa.array(["a", "b"]))]), "refused"
    indices = pa.array([n % 3 for n in range(count)], pa.int8())
    yield "a dictionary", ".parquet", _pairs([("text", pa.DictionaryArray.from_arrays(indices, TEXTS[:3]))]), "either"


def _places(world: World) -> Iterator[tuple[str, Path, Fate]]:
    """(what is wrong, path, what must come of it) where it is not the content."""
    for suffix in WHOLE:
        folder = world.new(suffix)
        folder.mkdir()
        yield f"a folder called {suffix}", folder, "refused"
        yield f"a pipe called {suffix}", fifo(world.new(suffix)), "refused"
        loop = world.new(suffix)
        loop.symlink_to(loop.name)
        yield f"a link to itself called {suffix}", loop, "refused"
        yield f"nothing called {suffix}", world.new(suffix), "refused"
    yield "a device", Path("/dev/null"), "refused"
    for suffix in (".pdf", ".zip", ".pkl", ".json.gz", ""):
        other = world.new(suffix)
        other.write_bytes(WHOLE[".jsonl"])
        yield f"a file called {suffix or 'nothing in particular'}", other, "refused"


def training_texts(world: World) -> Iterator[Case]:
    """Texts to train on."""

    def case(name: str, path: Path, fate: Fate) -> Case:
        act = command("train", world.new(), *world.training(text=path))
        return Case(f"text {name}: {path.name}", act, fate, (path.name,), (path.parent,))

    for name, suffix, content, fate in _contents():
        path = world.new(suffix)
        path.write_bytes(content)
        # An unlabelled column of labels matters to tasks alone.
        fate = "done" if "label column" in name and suffix != ".csv" else fate
        yield case(name, path, fate)
    for suffix, content in WHOLE.items():
        for number in range(4):
            path = world.new(suffix)
            path.write_bytes(scrambled(content, world.chance))
            yield case(f"scrambled {number}", path, "either")
    for name, path, fate in _places(world):
        yield case(name, path, fate)


def task_tables(world: World) -> Iterator[Case]:
    """Tables with labels to detect."""
    run = copied(world.run, world.new())

    def case(name: str, path: Path, fate: Fate) -> Case:
        act = command("evaluate", run, "--task", path)
        kept = (
            (path.parent, run / "ensembles", run / "corpus", run / "run.json") if fate == "refused" else (path.parent,)
        )
        return Case(f"task {name}: {path.name}", act, fate, (path.name,), kept)

    for name, suffix, content, fate in _contents():
        if suffix in (".txt", ".md"):
            fate = "refused"  # no table
        elif fate == "done" and name not in ("good", "half a surrogate pair", "bytes beside the text"):
            continue  # that a text is read rightly is shown by training
        path = world.new(suffix)
        path.write_bytes(content)
        yield case(name, path, fate)
    good = WHOLE[".jsonl"].decode()
    for name, table in {
        "one label": good.replace("plain", "page"),
        "no labels": good.replace('"label"', '"other"'),
        "empty labels": good.replace('"plain"', '""').replace('"page"', '""'),
        "labels that are lists": good.replace('"plain"', '["a"]'),
        "labels that are objects": good.replace('"plain"', '{"a": 1}'),
        "labels that are not numbers": good.replace('"plain"', "NaN"),
        "a label for each text": "".join(_row(n, label=f"label {n}") + "\n" for n in range(len(TEXTS))),
        "two texts": "".join(_row(n) + "\n" for n in range(2)),
        "one text many times": (_row(0) + "\n") * 200 + (_row(0, label="other") + "\n") * 200,
    }.items():
        path = world.new(".jsonl")
        path.write_text(table)
        yield case(name, path, "either" if "numbers" in name or "many times" in name else "refused")
    same = world.new(".jsonl")
    same.write_bytes(WHOLE[".jsonl"])
    again = world.new(".jsonl")
    again.write_bytes(WHOLE[".jsonl"].replace(b"page", b"leaf"))
    act = command("evaluate", run, "--task", same, "--task", again)
    yield Case("two tasks of one name", act, "either", (same.name, same.stem))
