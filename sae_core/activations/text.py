"""Documents with metadata: from the embedded corpus, a local file or a hub data set."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_core.activations import docstrings, hub, tables
from sae_core.config import EMBEDDED, TextSettings
from sae_core.errors import UserError
from sae_core.progress import Progress, Tick, silent

TEXT_FORMATS = (".txt", ".md")
MIN_PASSAGE_CHARS = 200
MAX_PASSAGE_CHARS = 2000
MAX_METADATA_CHARS = 80
_WORKERS = 2


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


def load_documents(
    settings: TextSettings, *, max_chars: int | None = None, progress: Progress = silent
) -> list[Document]:
    """Read documents in the order of their source.

    Args:
        settings: Where from.
        max_chars: Stop once the documents hold this many characters.
        progress: Told the number of characters.

    Raises:
        UserError: If the source is missing, unreadable, empty, lacks the text column or cannot be reached.
    """

    def tell(chars: int, wanted: int) -> None:
        progress(Tick("gather text", chars, wanted, "characters"))

    if settings.source == EMBEDDED:
        # As a passage has a longest length, this many characters hold enough passages.
        most = settings.max_documents and settings.max_documents * docstrings.MAX_CHARS
        limit = min((chars for chars in (max_chars, most) if chars is not None), default=None)
        passages = docstrings.read_passages(max_chars=limit, workers=_WORKERS, progress=tell)
        documents = [_document_of_passage(passage) for passage in passages[: settings.max_documents]]
    else:
        documents = _gather(_documents(settings), settings.max_documents, max_chars, tell)
    if not documents:
        raise UserError(f"{settings.source} holds no text in column {settings.text_column!r}; give a source that does.")
    return documents


def load_labelled(path: Path, *, text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    """Texts and their labels from a .jsonl, .csv, .tsv or .parquet file; rows without text or label are passed over.

    Raises:
        UserError: If the file is missing or damaged, lacks a column, or has no row with both.
    """
    texts, labels = [], []
    for number, row in enumerate(tables.read_rows(path, (text_column, label_column)), start=1):
        text, label = _text(row[text_column], f"Column {text_column!r} of {path}, row {number},"), row[label_column]
        if text and label not in (None, ""):
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
    while len(passage) > MAX_PASSAGE_CHARS:
        head = passage[:MAX_PASSAGE_CHARS]
        ends = (head.rfind("\n"), head.rfind(". ") + 1, head.rfind(" "))
        # The best kind of end that is not far from the front.
        at = next((end for end in ends if end > MAX_PASSAGE_CHARS // 2), MAX_PASSAGE_CHARS)
        yield passage[:at]
        passage = passage[at:].lstrip()
    if passage.strip():
        yield passage


def _document_of_passage(passage: docstrings.Passage) -> Document:
    metadata = {"package": passage.package, "module": passage.module, "name": passage.name, "kind": passage.kind}
    return Document(passage.text, metadata)


def _documents(settings: TextSettings) -> Iterator[Document]:
    path = Path(settings.source).expanduser()
    suffix = path.suffix.lower()
    if suffix in TEXT_FORMATS:
        for number, passage in enumerate(split_text(tables.read_text_file(path)), start=1):
            yield Document(passage, {"source": path.name, "row": str(number)})
    elif path.exists() or suffix in tables.FORMATS or not hub.is_hub_id(settings.source):
        rows = tables.read_rows(path, (settings.text_column,))
        yield from _documents_of_rows(rows, settings, str(path), path.name)
    else:
        yield from _documents_of_rows(_hub_rows(settings), settings, settings.source, settings.source)


def _documents_of_rows(
    rows: Iterable[tables.Row], settings: TextSettings, where: str, source: str
) -> Iterator[Document]:
    for number, row in enumerate(rows, start=1):
        text = _text(row[settings.text_column], f"Column {settings.text_column!r} of {where}, row {number},")
        if text:
            metadata = {str(name): str(value) for name, value in row.items() if _is_short(value)}
            metadata.pop(settings.text_column, None)
            yield Document(text, {"source": source, "row": str(number)} | metadata)


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


def _gather(
    documents: Iterable[Document], max_documents: int | None, max_chars: int | None, tell: Callable[[int, int], None]
) -> list[Document]:
    gathered: list[Document] = []
    chars = 0
    for document in documents:
        gathered.append(document)
        chars += len(document.text)
        if len(gathered) % 1000 == 0:
            tell(chars, max_chars or 0)
        if len(gathered) == max_documents or (max_chars is not None and chars >= max_chars):
            break
    tell(chars, max_chars or chars)
    return gathered


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
