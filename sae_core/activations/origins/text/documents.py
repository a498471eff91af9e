"""Documents with metadata: from the embedded corpus, a local file or a hub data set."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sae_core.activations.origins.text import docstrings, hub
from sae_core.foundation.errors import UserError
from sae_core.foundation.files import row_files as tables
from sae_core.foundation.files.clean_text import clean_text
from sae_core.foundation.files.text_streams import format_of
from sae_core.foundation.progress import Progress, Tick, silent
from sae_core.foundation.settings.run_settings import TextSettings

TEXT_FORMATS = (".txt", ".md")
MIN_PASSAGE_CHARS = 200
MAX_PASSAGE_CHARS = 2000
MAX_METADATA_CHARS = 80
_WORKERS = 2
_NO_SPACE = re.compile(r"\S")
_OWN = ("source", "row", "document", "passage")
"""Names under which a passage says where it comes from; a column of the file that has such a name gets another one."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what is known about it.

    Attributes:
        text: The text; never empty.
        metadata: Embedded: package, module, name, kind. Otherwise source, row (counted from 1) and every other column
            that holds a short value.
    """

    text: str
    metadata: dict[str, str]


def iter_documents(settings: TextSettings) -> Generator[Document, None, None]:
    """The documents of a source, one after another, as they are read.

    Raises:
        UserError: If the source is missing, unreadable, lacks the text column or cannot be reached.
    """
    if settings.is_embedded:
        passages = docstrings.iter_passages(workers=_WORKERS)
        with closing(passages):  # ends the processes that read ahead
            yield from islice(map(_document_of_passage, passages), settings.max_documents)
    else:
        yield from islice(_documents(settings), settings.max_documents)


def load_documents(
    settings: TextSettings, *, max_chars: int | None = None, progress: Progress = silent
) -> list[Document]:
    """Read documents in the order of their source.

    Args:
        settings: Where from.
        max_chars: Stop once the documents hold this many characters.
        progress: Told the number of characters.

    Raises:
        UserError: As `iter_documents`, or if there is no text.
    """
    gathered: list[Document] = []
    chars = 0
    with closing(iter_documents(settings)) as source:
        for document in source:
            gathered.append(document)
            chars += len(document.text)
            if max_chars is not None and chars >= max_chars:
                break
            if len(gathered) % 1000 == 0:
                progress(Tick("gather text", chars, max_chars or 0, "characters"))
    progress(Tick("gather text", chars, max_chars or chars, "characters"))
    if not gathered:
        raise no_text(settings)
    return gathered


def no_text(settings: TextSettings) -> UserError:
    """The error for a source without any text."""
    return UserError(f"{settings.source} holds no text in column {settings.text_column!r}; give a source that does.")


def load_labelled(path: Path, *, text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    """Texts and their labels from a file of rows; rows without text or label are passed over.

    Raises:
        UserError: If the file is missing or damaged, lacks a column, or has no row with both.
    """
    texts, labels = [], []
    for number, row in enumerate(tables.read_rows(path, (text_column, label_column)), start=1):
        text, label = _text(row[text_column], f"Column {text_column!r} of {path}, row {number},"), row[label_column]
        # A number that is none (NaN) is how a column of numbers says that it holds nothing.
        if isinstance(label, (list, dict, bytes)):
            raise UserError(
                f"Column {label_column!r} of {path}, row {number}, holds {type(label).__name__}, not a label; choose a "
                "column of words or numbers."
            )
        if text and label not in (None, "") and label == label:
            texts.append(text)
            labels.append(str(label))
    if not texts:
        raise UserError(f"{path} has no row with both {text_column!r} and {label_column!r}; give a file that has.")
    return texts, labels


def split_text(text: str) -> Iterator[str]:
    """Cut a text into passages of some 200 to 2000 characters, at blank lines and before Markdown headings.

    Short paragraphs go with the next one; long ones are cut at the end of a line, a sentence or a word.
    """
    passage = ""
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        block = block.strip("\n")
        if not block.strip():
            continue
        if passage and (len(passage) >= MIN_PASSAGE_CHARS or block.startswith("#")):
            yield from _cut(passage)
            passage = ""
        passage = f"{passage}\n\n{block}" if passage else block
    if passage:
        yield from _cut(passage)


def _cut(passage: str) -> Iterator[str]:
    start = 0
    while len(passage) - start > MAX_PASSAGE_CHARS:
        head = passage[start : start + MAX_PASSAGE_CHARS]
        ends = (head.rfind("\n"), head.rfind(". ") + 1, head.rfind(" "))
        # The best kind of end that is not far from the front.
        at = next((end for end in ends if end > MAX_PASSAGE_CHARS // 2), MAX_PASSAGE_CHARS)
        yield head[:at]
        # The rest is never copied, as that would take the square of a long line's length.
        following = _NO_SPACE.search(passage, start + at)
        start = following.start() if following else len(passage)
    if start < len(passage) and not passage[start:].isspace():
        yield passage[start:]


def _document_of_passage(passage: docstrings.Passage) -> Document:
    metadata = {"package": passage.package, "module": passage.module, "name": passage.name, "kind": passage.kind}
    return Document(clean_text(passage.text), metadata)  # source code can spell halves of surrogate pairs


def _documents(settings: TextSettings) -> Iterator[Document]:
    try:
        path = Path(settings.source).expanduser()
    except RuntimeError:
        raise UserError(f"There is no home directory for {settings.source}; give the whole path.") from None
    suffix = format_of(path)
    if suffix in TEXT_FORMATS:
        for number, passage in enumerate(split_text(tables.read_text_file(path)), start=1):
            yield Document(passage, {"source": clean_text(path.name), "row": str(number)})
    elif os.path.lexists(path) or suffix in tables.FORMATS or not hub.is_hub_id(settings.source):
        rows = tables.read_rows(path, (settings.text_column,))
        yield from _documents_of_rows(rows, settings, str(path), clean_text(path.name))
    else:
        yield from _documents_of_rows(_hub_rows(settings), settings, settings.source, settings.source)


def _documents_of_rows(
    rows: Iterable[tables.Row], settings: TextSettings, where: str, source: str
) -> Iterator[Document]:
    for number, row in enumerate(rows, start=1):
        text = _text(row[settings.text_column], f"Column {settings.text_column!r} of {where}, row {number},")
        if text:
            others = {_other_name(name, row): value for name, value in row.items() if name != settings.text_column}
            metadata = {name: str(value) for name, value in others.items() if _is_short(value)}
            yield Document(text, {"source": source, "row": str(number)} | metadata)


def _other_name(name: str, row: tables.Row) -> str:
    """What a column of a file is called among a document's metadata; never what our own are called."""
    given = name
    while name in _OWN or (name != given and name in row):
        name = f"{name} (column)"
    return name


def _hub_rows(settings: TextSettings) -> Iterator[tables.Row]:
    """Rows of a hub data set, streamed."""
    return hub.stream_rows(
        settings.source,
        (settings.text_column,),
        subset=settings.subset,
        split=settings.split,
        instead="give a local file, or set text.source to embedded",
        check="check text.source, text.subset and text.split",
    )


def _text(value: Any, where: str) -> str:
    """The text in a cell; empty if there is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where} holds {type(value).__name__}, not text; choose the column that holds the text.")
    return value if value.strip() else ""


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= MAX_METADATA_CHARS and "\n" not in value
    return isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))
