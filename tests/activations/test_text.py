"""Documents from every kind of source, and one clear sentence for every kind of bad source."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_core.activations.origins.text import docstrings, hub
from sae_core.activations.origins.text.documents import MAX_PASSAGE_CHARS, load_documents, load_labelled, split_text
from sae_core.foundation.errors import UserError
from sae_core.foundation.files import text_streams
from sae_core.foundation.files.text_streams import array_items
from sae_core.foundation.settings.run_settings import TextSettings

ROWS = [
    {"text": 'One, with a "quote"\nand two lines', "topic": "a", "stars": 5, "good": True},
    {"text": "Zwei – 你好", "topic": "b" * 300, "stars": 1, "good": False},
    {"text": "  ", "topic": "blank", "stars": 0, "good": False},
    {"text": "NA", "topic": "", "stars": 2, "good": True},
]


def write(folder: Path, suffix: str) -> Path:
    path = folder / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    elif suffix == "json":
        path.write_text(f"\n {json.dumps(ROWS, indent=1, ensure_ascii=False)} \n", encoding="utf-8-sig")
    elif suffix in ("jsonl.gz", "csv.gz", "jsonl.zst"):
        whole = write(folder, suffix.split(".")[0]).read_bytes()
        half = len(whole) // 2  # two members, as `cat` makes of two compressed files
        compress = gzip.compress if suffix.endswith(".gz") else zstd
        path.write_bytes(compress(whole[:half]) + compress(whole[half:]))
    elif suffix == "parquet":
        pd.DataFrame([row | {"vector": [1.0, 2.0]} for row in ROWS]).to_parquet(path)
    else:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            out = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if suffix == "tsv" else ",")
            out.writeheader()
            out.writerows(ROWS)
    return path


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


SUFFIXES = ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "csv.gz", "jsonl.zst"]


def load(path: Path | str, **settings: Any) -> list[Any]:
    return load_documents(TextSettings(source=str(path), **settings))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_become_documents_with_their_short_columns(tmp_path: Path, suffix: str) -> None:
    documents = load(write(tmp_path, suffix))
    assert [document.text for document in documents] == [ROWS[0]["text"], ROWS[1]["text"], "NA"]
    name = f"rows.{suffix}"
    assert documents[0].metadata == {"source": name, "row": "1", "topic": "a", "stars": "5", "good": "True"}
    assert documents[1].metadata == {"source": name, "row": "2", "stars": "1", "good": "False"}
    assert documents[2].metadata["row"] == "4"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_limits_and_labels(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    assert len(load(path, max_documents=2)) == 2
    settings = TextSettings(source=str(path))
    assert len(load_documents(settings, max_chars=1)) == 1
    assert len(load_documents(settings, max_chars=len(ROWS[0]["text"]) + 1)) == 2
    texts, labels = load_labelled(path, text_column="text", label_column="stars")
    assert (texts, labels) == ([ROWS[0]["text"], ROWS[1]["text"], "NA"], ["5", "1", "2"])
    texts, labels = load_labelled(path, text_column="text", label_column="topic")
    assert (texts[0], labels) == (ROWS[0]["text"], ["a", "b" * 300])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_column_is_refused_and_those_there_are_named(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix)
    with pytest.raises(UserError, match=r"has no column 'body'; choose one of those it has: text, topic, stars, good"):
        load(path, text_column="body")
    with pytest.raises(UserError, match="has no column 'label'"):
        load_labelled(path, text_column="text", label_column="label")


def test_a_column_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Column 'stars' of .*rows.jsonl, row 1, holds int, not text"):
        load(write(tmp_path, "jsonl"), text_column="stars")
    with pytest.raises(UserError, match="holds list, not text"):
        load(write(tmp_path, "parquet"), text_column="vector")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": ', "Line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", '"x"\n', "Line 1 of .*a.jsonl is no JSON object"),
        ("a.csv", 'text,n\nx,1\n"never closed,2\nx,3\n', "a.csv is not readable as CSV after line 2"),
        (
            "a.csv",
            "text,n\nHello, world,1\n",
            "Line 2 of .*a.csv has more fields than the header; put text that holds ','",
        ),
        ("a.csv", "text,n\n ,1\n", "a.csv holds no text in column 'text'"),
        ("a.txt", " \n\n\t\n", "a.txt holds no text"),
        ("a.jsonl", "", "a.jsonl holds no text"),
        ("a.parquet", "PAR1 no", "a.parquet cannot be read"),
        ("a.xlsx", "x", r"a.xlsx is of no known format; give a file that ends in .jsonl, .json, .csv"),
        ("a.json", '[{"text": "x"}, {"text": "y"', "Value 2 of .*a.json is not JSON"),
        ("a.json", '[{"text": "x"}', "a.json ends within its array, after value 1"),
        ("a.json", '[{"text": "x"} {"text": "y"}]', "After value 1 of .* stands '{' instead of a comma"),
        ("a.json", '[{"text": "x"}] {}', "a.json goes on after its array"),
        ("a.json", '["x"]', "Value 1 of .* is no JSON object"),
        ("a.json", '{"text": "x"}\n{', "Line 2 of .*a.json is not JSON"),
        ("a.jsonl.gz", "no such thing", "a.jsonl.gz cannot be read"),
        ("a.txt.zst", "no such thing", "a.txt.zst cannot be read"),
        ("a.parquet.gz", "x", "a.parquet.gz is Parquet, which is compressed inside"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_files_that_are_not_utf8_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(
        'text\n{"text": "café"}\n'.encode("latin-1") if name != "a.jsonl" else b'{"text": "\xe9"}'
    )
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte 0xe9\); convert it"):
        load(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for name in ("a.txt", "a.csv", "a.jsonl", "folder/a.b.c/d"):
        with pytest.raises(UserError, match="does not exist; check the path"):
            load(tmp_path / name)
    with pytest.raises(UserError, match="is a folder; give the path of a file"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"The file missing.csv does not exist"):
        load("missing.csv")


def test_a_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    long = "A sentence of some words. " * 20
    path = tmp_path / "book.md"
    path.write_bytes(f"\ufeff# Title\r\n\r\nShort.\r\n\r\n{long}\r\n \r\nMore.\n\n# Next\n\nEnd.".encode())
    documents = load(path)
    assert [document.text for document in documents] == [f"# Title\n\nShort.\n\n{long}", "More.", "# Next\n\nEnd."]
    assert [document.metadata for document in documents] == [
        {"source": "book.md", "row": str(row)} for row in (1, 2, 3)
    ]


def test_cutting_loses_nothing_and_prefers_good_places() -> None:
    sentences = " ".join(f"Sentence number {number} is here." for number in range(400))
    pieces = list(split_text(sentences))
    assert all(len(piece) <= MAX_PASSAGE_CHARS for piece in pieces)
    assert all(piece.endswith(".") for piece in pieces)
    for text in (sentences, "x" * 5001, "word " * 1500, "\n".join(["line"] * 2000), sentences + "\n\n" + "y" * 3000):
        assert "".join("".join(split_text(text)).split()) == "".join(text.split())
    assert [len(piece) for piece in split_text("x" * 5001)] == [2000, 2000, 1001]


def test_the_embedded_corpus_gives_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "iter_passages", partial(docstrings.iter_passages, packages=("json",)))
    documents = load_documents(TextSettings(max_documents=3))
    assert len(documents) == 3
    assert list(documents[0].metadata) == ["package", "module", "name", "kind"]
    assert documents[0].metadata["package"] == "json"


def pretend_datasets(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]] | Exception) -> list[Any]:
    """Stand in for the optional package and for the hub; returns the calls that are made."""
    calls: list[Any] = []

    def load_dataset(path: str, name: str | None = None, *, split: str, streaming: bool) -> Iterator[dict[str, Any]]:
        calls.append((path, name, split, streaming))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    return calls


def test_a_hub_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend_datasets(monkeypatch, [{"body": f"text {number}", "label": number} for number in range(10)])
    documents = load("owner/set", text_column="body", split="test", subset="en", max_documents=2)
    assert calls == [("owner/set", "en", "test", True)]
    assert [document.text for document in documents] == ["text 0", "text 1"]
    assert documents[1].metadata == {"source": "owner/set", "row": "2", "label": "1"}
    with pytest.raises(UserError, match=r"hub data set 'owner/set' has no column 'text'; .* body, label"):
        load("owner/set")


def test_faults_of_a_hub_data_set_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_datasets(monkeypatch, ValueError("Unknown split 'tset'.\nShould be one of ['train']"))
    with pytest.raises(
        UserError, match=r"^The hub data set 'owner/set' cannot be read \(Unknown split 'tset'\); check"
    ):
        load("owner/set", split="tset")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets; run pip install 'sae-ensemble\[hub\]'"):
        load("owner/set")


def test_without_the_hub_the_error_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend_datasets(monkeypatch, [])
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    with pytest.raises(UserError, match=r"'ag_news' is no file, and the hub .* cannot be asked"):
        load("ag_news")
    assert calls == []


def test_halves_of_surrogate_pairs_and_nuls_become_the_sign_for_what_is_no_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a\\ud800b \\ud83d\\ude00", "topic": "x\\udc00\\u0000"}\n')
    (document,) = load(path)
    assert document.text == "a\ufffdb \U0001f600"
    assert document.metadata["topic"] == "x\ufffd\ufffd"
    path = tmp_path / "a.txt"
    path.write_bytes(b"text " * 100 + b"\x00")
    assert load(path)[0].text.endswith("\ufffd")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"[" * 100_000, "Line 1 of .* is nested too deeply"),
        ("a.jsonl", b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "Line 1 of .* has a number that is too long"),
        ("a.csv", b"text,n\nx\n", "Line 2 of .* has 1 of the header's 2 fields"),
        ("a.txt", "plain words".encode("utf-16-le"), "is full of NUL characters"),
        ("a.csv", b"", "holds no text"),
        ("a.csv", b"text,n\n", "holds no text"),
        ("a.parquet", b"", "cannot be read"),
    ],
)
def test_what_no_reader_can_make_text_of_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / name)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="is a pipe or a device"):
        load(tmp_path / "a.jsonl")


def test_parquet_columns_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    days = pa.array([-719_162, 2_932_896], pa.int32()).cast(pa.date32())  # years 1 and 9999
    columns = {
        "text": pa.array(["one", "two"]).dictionary_encode(),
        "day": days,
        "price": pa.array([Decimal("1.50"), None]),
        "far": pa.array([10**9, 0], pa.date32()),
        "raw": pa.array([b"\xff", b"x"]),
        "many": pa.array([[1], [2]]),
    }
    pq.write_table(pa.table(columns), path)
    first, second = load(path)
    assert (first.metadata["day"], first.metadata["price"]) == ("0001-01-01", "1.50")
    assert second.metadata["day"] == "9999-12-31"
    assert not {"raw", "many"} & set(first.metadata)
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"text": bad}), path)
    with pytest.raises(UserError, match=r"Column 'text' of .*a\.parquet, row 2, is not UTF-8 text \(byte 0xff\)"):
        load(path)


def test_a_long_json_array_is_read_piece_by_piece(tmp_path: Path) -> None:
    rows = [{"text": f"passage {number} " + "word " * (number % 7 * 5000)} for number in range(60)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert [one.text for one in load(tmp_path / "a.json")] == [row["text"] for row in rows]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    whole = json.dumps({"text": "".join(map(str, range(9000)))}).encode()
    (tmp_path / name).write_bytes((gzip.compress if name.endswith("gz") else zstd)(whole)[:-900])
    with pytest.raises(UserError, match=rf"{name} cannot be read"):
        load(tmp_path / name)


def test_a_fault_at_the_front_of_a_json_array_does_not_read_the_rest() -> None:
    class Long(io.StringIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> str:
            self.taken += size or 0
            return super().read(size)

    file = Long('[{"a": 1, b: 2}, ' + '{"a": 1}, ' * 100_000)
    with pytest.raises(UserError, match="Value 1 of here is not JSON"):
        next(array_items(file, json.JSONDecoder(), "here"))
    assert file.taken < 100_000


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_json_array_may_be_cut_anywhere_between_two_pieces(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_streams, "_PIECE", cut)
    rows = [{"a": "\U0001f600 \\ \n", "n": -1.5e-7, "x": [True, None, {"y": "\ud83d"}]}, {}, 12, "s"]
    text = json.dumps(rows)
    assert list(array_items(io.StringIO(text), json.JSONDecoder(), "here")) == rows
