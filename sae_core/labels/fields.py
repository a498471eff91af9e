"""The kinds of fields that people fill in: how each is stored, read, checked and shown.

`Label` declares its fields with these kinds. Tables, history, CSV, search, forms and browser drafts follow from that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Integer, Text
from sqlalchemy.types import TypeEngine

from sae_core.foundation.numbering import whole_number

Value = str | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(ABC):
    """A field that people fill in.

    Attributes:
        title: Its name on pages.
        since: The format of the tables that has the field first, see `schema.FORMAT`. Older tables get its columns.
        hint: Shown in the empty field of the form.
        width: Its width in the form, relative to other fields.
        spreads: Whether a label that is propagated takes the field along, and follows its source in it.
        sql: The type of its columns.
        dtype: The type of its column in a data frame.
        empty: The value of a field that nobody has filled in.
    """

    title: str
    since: int
    hint: str = ""
    width: float = 1.0
    spreads: bool = False
    sql: ClassVar[type[TypeEngine[Any]]]
    dtype: ClassVar[str]
    empty: ClassVar[Value]

    @property
    @abstractmethod
    def longest(self) -> int:
        """The largest number of characters that people type."""

    @abstractmethod
    def parse(self, text: str) -> Value:
        """Return the value that people typed, cleaned.

        Raises:
            ValueError: With the second half of a sentence, if the text is no such value.
        """

    @abstractmethod
    def fault(self, value: Value) -> str:
        """What is wrong with a value, as the second half of a sentence; empty if nothing is."""

    def text(self, value: Value) -> str:
        """The text that `parse` reads back."""
        return "" if value is None else str(value)

    def shown(self, value: Value) -> str:
        """The text for people who do not see the field's title."""
        return self.text(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Field):
    """A text of at most ``longest`` characters."""

    longest: int
    sql = Text
    dtype = "str"
    empty = ""

    def parse(self, text: str) -> str:
        """Return the text without blanks around it."""
        return clean(text)

    def fault(self, value: Value) -> str:
        """Say how much too long a text is."""
        length = len(self.text(value))
        return f"it has {length:,} characters and {self.longest:,} fit; shorten it." if length > self.longest else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole(Field):
    """A whole number from ``least`` to ``most``, or none."""

    least: int
    most: int
    sql = Integer
    dtype = "Int64"
    empty = None

    @property
    def longest(self) -> int:
        """The largest number of characters that people type."""
        return len(str(self.most))

    def parse(self, text: str) -> int | None:
        """Return the number; None for an empty text."""
        text = text.strip()
        value = whole_number(text, self.most + 1) if text else None
        if text and (value is None or value < self.least):
            raise ValueError(f"{text[:40]!r} is not a number from {self.least} to {self.most}.")
        return value

    def fault(self, value: Value) -> str:
        """Say that a number is out of range."""
        fits = value is None or (isinstance(value, int) and self.least <= value <= self.most)
        return "" if fits else f"{value!r} is not a number from {self.least} to {self.most}."

    def shown(self, value: Value) -> str:
        """The number behind its title."""
        return "" if value is None else f"{self.title.lower()} {value}"


def clean(text: str) -> str:
    """Strip blanks around a text, remove NUL, and replace lone surrogates; databases refuse both."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8").strip()
