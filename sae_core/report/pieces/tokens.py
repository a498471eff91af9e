"""Token strips: tokens in context with the activation as background colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Protocol

from sae_core.activations.origins.text.shown import NEWLINE, SPACE, TAB, show_alone, visible
from sae_core.activations.origins.text.token_texts import PARTIAL
from sae_core.activations.rows_shown import RowShown
from sae_core.foundation.colours import ACTIVATION_LEVELS, activation_level
from sae_core.foundation.numbers import decimal, whole
from sae_core.report.html import Html, element, joined
from sae_core.report.pieces.row_views import is_small, row_html, tile_html, tiles_html

__all__ = ["NEWLINE", "PART", "SPACE", "TAB", "show_alone", "show_in_context"]

PART = "▫"
_IN_CONTEXT = str.maketrans({"\n": NEWLINE, "\t": TAB, "\r": "", "\u00a0": SPACE, PARTIAL: PART})
_KEPT = 20_000  # texts of tokens, of which the same come again and again


class ExampleLike(Protocol):
    """What a strip needs of an example (`sae_core.analysis.index.examples.Example`)."""

    @property
    def position(self) -> int:
        """Token position of the peak in the corpus."""

    @property
    def start(self) -> int:
        """Token position of the window's first token."""

    @property
    def texts(self) -> Sequence[str]:
        """The window's tokens."""

    @property
    def values(self) -> Sequence[float]:
        """The feature's activation at each of them."""

    @property
    def peak(self) -> float:
        """The activation at ``position``."""

    @property
    def metadata(self) -> Mapping[str, object]:
        """What is known of the document."""

    @property
    def row(self) -> RowShown | None:
        """What people look at, where rows are no tokens."""


@lru_cache(_KEPT)
def show_in_context(text: str) -> str:
    """A token within running text: only line ends and tabs get a sign. Not escaped."""
    return visible(text.translate(_IN_CONTEXT))


def source_of(metadata: Mapping[str, object]) -> str:
    """Where a passage comes from, in a few words: ``scipy.optimize · minimize``, ``notes.csv · row 12 · passage 3``."""
    parts = [str(metadata[key]) for key in ("module", "name") if metadata.get(key)]
    if not parts and metadata.get("source"):
        parts = [str(metadata["source"])]
        if metadata.get("row") not in (None, ""):
            parts.append(f"row {metadata['row']}")
    if metadata.get("passage") not in (None, "") and "document" in metadata:
        parts.append(f"passage {metadata['passage']}")
    return " · ".join(parts)


def describe(metadata: Mapping[str, object]) -> str:
    """Everything that is known of a document, for a tooltip."""
    return ", ".join(f"{key}: {value}" for key, value in metadata.items() if value not in (None, ""))


def whole_character(texts: Sequence[str], number: int) -> str:
    """The character that a token has only some bytes of, if it is whole within the texts; else nothing."""
    if not texts[number].endswith(PARTIAL):
        return ""
    later = (text for text in texts[number + 1 :] if text.strip(PARTIAL))
    return next((text[0] for text in later if text[0] != PARTIAL), "")


def token_span(
    text: str, value: float, peak: float, *, position: int, source: str, is_peak: bool, character: str = ""
) -> Html:
    """One active token as a span with its class and tooltip.

    Args:
        text: What it reads like.
        value: The activation there.
        peak: The feature's largest activation anywhere.
        position: Where in the corpus it is.
        source: Where the text comes from.
        is_peak: Whether the window is shown for this token.
        character: The character that it has only some bytes of, if so.
    """
    level = activation_level(value, peak)
    part = f" (some bytes of “{show_alone(character)}”)" if character else ""
    shown = show_in_context(text) if PARTIAL in text else show_alone(text)
    title = f"{shown}{part}\nactivation {decimal(value, 3)}\ntoken {whole(position)} of the corpus"
    if source:
        title += f"\n{source}"
    mark = " pk" if is_peak else ""
    # Leading spaces stay outside the colour, so that lines break before the word and not within the box.
    # A token of nothing but spaces shows them, since there is no word to see where it is.
    word = text.lstrip(" ") or text.replace(" ", SPACE)
    space = text[: len(text) - len(word)]
    return Html(f'{space}<span class="a{level}{mark}" title="{escape(title)}">{escape(show_in_context(word))}</span>')


def strip(example: ExampleLike, peak: float) -> Html:
    """One example as HTML: its tokens, of which only active ones get a span, or what people look at of its row.

    Args:
        example: The example.
        peak: The feature's largest activation anywhere, which gets the strongest colour.
    """
    if example.row is not None:
        place = example.position - example.start
        return row_html(example.row, example.values, place, example.texts, peak)
    source = source_of(example.metadata)
    pieces: list[str] = []
    for number, (text, value) in enumerate(zip(example.texts, example.values, strict=True)):
        position = example.start + number
        text = text if number else text.lstrip(" ") or text
        if value > 0:
            is_peak, character = position == example.position, whole_character(example.texts, number)
            pieces.append(
                token_span(text, value, peak, position=position, source=source, is_peak=is_peak, character=character)
            )
        else:
            pieces.append(show_in_context(text))
    return joined(*pieces)


def strips(examples: Sequence[ExampleLike], peak: float, *, heading: str = "", note: str = "") -> Html:
    """A block of examples: the peak's activation, the strip, the source; small images stand side by side.

    Args:
        examples: The examples, in the order in which they appear.
        peak: The feature's largest activation anywhere.
        heading: Small heading above.
        note: One sentence beside the heading.
    """
    rows = (
        [_small_rows(examples, peak)]
        if examples and is_small(examples[0].row)
        else [
            example_row(
                decimal(one.peak),
                strip(one, peak),
                element(
                    "span",
                    one.row.source if one.row else source_of(one.metadata),
                    kind="src",
                    title=describe(one.metadata),
                ),
            )
            for one in examples
        ]
    )
    head = element("div", element("b", heading), element("span", note), kind="sub") if heading else ""
    return element("div", head, *rows, kind="sae strips")


def _small_rows(examples: Sequence[ExampleLike], peak: float) -> Html:
    tiles = [
        tile_html(one.row, one.peak, show_alone(one.texts[one.position - one.start]), peak)
        for one in examples
        if one.row is not None
    ]
    return tiles_html(tiles)


def example_row(value: str, text: Html, below: Html) -> Html:
    """One row of a block of examples: a figure, its text, and what stands below."""
    return element("div", element("span", value, kind="val"), element("div", text, kind="txt"), below, kind="ex")


def legend(peak: float, *, tokens: bool = True) -> Html:
    """What the colours mean: a ramp from just above 0 to the feature's peak.

    Args:
        peak: The feature's largest activation.
        tokens: Whether signs of tokens are explained, too.
    """
    boxes = [element("i", kind=f"a{level}") for level in range(1, ACTIVATION_LEVELS + 1)]
    signs = (f"{NEWLINE} line end", f"{TAB} tab", f"{SPACE} space that fires", f"{PART} part of a character")
    said = "\u2002".join(
        (*signs, "outlined: the window's peak", "hover for details") if tokens else ("hover for details",)
    )
    return element(
        "div",
        element("span", "activation\u00a0 0"),
        element("span", *boxes, kind="ramp"),
        element("span", f"{decimal(peak)} (peak)"),
        element("span", said),
        kind="sae legend",
    )


def token_chip(text: str) -> Html:
    """A token on its own, as a small box with its spaces visible."""
    return element("code", show_alone(text), kind="tok")


def token_chips(texts: Sequence[str]) -> Html:
    """Several tokens in a row."""
    return joined(*map(token_chip, texts))
