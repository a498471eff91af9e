"""The column beside a feature's examples, as one block of HTML: passages, logit lens, nearest atoms, company.

Links carry ``data-go``: the page answers them itself, and they stay links for a new tab.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from operator import itemgetter
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from dashboard.shared.look.cards import chip, member_chip, section, token_bars
from dashboard.shared.look.tokens import token_chip, token_chips
from sae_core.foundation.colours import HIGHLIGHT, LESS, MORE
from sae_core.foundation.numbers import decimal, percent, whole

LABELS_SHOWN = 5
KEYS = {
    "←": "previous",
    "→": "next",
    "l": "label",
    "o": "open the nearest atom",
    "p": "pin",
    "Esc": "leave a field",
}


@dataclass(frozen=True, slots=True)
class Near:
    """A feature near to the one that is shown: in another member or its own, or firing with it.

    Attributes:
        feature: Number of the feature.
        member: Its member; None if that goes without saying, and then its tokens stand there.
        said: What is known of it, such as ``cosine 0.91``.
        tokens: Tokens that stand for it.
        name: Its label or suggested label.
        suggested: Whether the name is only suggested.
        definition: What is meant by what is said, shown when that is pointed at.
    """

    feature: int
    member: int | None
    said: str
    tokens: Sequence[str] = ()
    name: str = ""
    suggested: bool = False
    definition: str = ""


def link(query: Mapping[str, str], feature: int, text: str) -> str:
    """A link to a feature that the page answers without being loaded anew."""
    address = urlencode({**query, "feature": str(feature)})
    return f'<a href="?{escape(address)}" data-go="{feature}">{escape(text)}</a>'


HALVES = (
    "The rule was chosen on one half of the indexed documents and measured on the other half. The SAEs were trained on "
    "both, so on text of another kind it may do worse. · is a space: “·the” and “the” are different tokens."
)
"""What the figures of a suggested label were measured on."""


def suggestion_html(row: Mapping[Any, Any] | None) -> str:
    """The suggested label with its figures as a detector, or why there is none.

    Args:
        row: The feature's row of suggestions; None if the run was indexed by a version that made none.
    """
    mark = chip("suggestion", HIGHLIGHT, title="Made by a rule from the tokens; nobody has checked it")
    if row is None:
        said = '<span class="muted">none yet: sae-ensemble index adds them to this run</span>'
    elif not row["suggestion"]:
        said = '<span class="muted">none: no simple rule on tokens foretells where it fires</span>'
    else:
        holds, fires, both = whole(row["holds"]), whole(row["fires"]), whole(row["both"])
        figures = (
            _defined(
                f"precision {percent(row['precision'], 0)}",
                f"It fires on {both} of the {holds} tokens there where the rule holds as it reads",
            ),
            _defined(
                f"recall {percent(row['recall'], 0)}",
                f"The rule holds on {both} of the {fires} tokens there on which it fires",
            ),
            _defined(
                f"{decimal(row['lift'], 1)} times as often",
                "How many times more often it fires where the rule holds than on any token",
            ),
        )
        said = (
            f'<b>{escape(str(row["suggestion"]))}</b><span class="muted">{" · ".join(figures)} '
            f"{_defined('on the other half of the text', HALVES)}</span>"
        )
    return f'<div class="sae suggest">{mark}{said}</div>'


def _defined(text: str, definition: str) -> str:
    return f'<span title="{escape(definition)}">{escape(text)}</span>'


def passages_html(shares: pd.DataFrame) -> str:
    """The share of each label among the passages in which the feature fires."""
    if shares.empty:
        return ""
    parts = [
        section(
            "Where its passages come from",
            "Share of each label among the passages in which it fires; the mark is its share of all passages, "
            "and × how many times that it is.",
        )
    ]
    for column, found in groupby(shares.to_dict("records"), key=itemgetter("column")):
        labels = list(found)
        rows, rest = "".join(map(_share, labels[:LABELS_SHOWN])), len(labels) - LABELS_SHOWN
        more = f'<span class="t">and {rest} more</span>' if rest > 0 else ""
        parts.append(f'<div class="sae bars shares"><span class="t">{escape(str(column))}</span>{rows}{more}</div>')
    return "".join(parts)


def _share(row: Mapping[Any, Any]) -> str:
    title = escape(
        f"{row['label']}: {whole(row['passages'])} passages, {percent(row['share'])} of those in which it fires; "
        f"{percent(row['corpus_share'])} of all"
    )
    return (
        f'<span class="lab" title="{title}">{escape(row["label"])}</span><span class="b" title="{title}">'
        f'<i style="width:{100 * row["share"]:.1f}%;background:{MORE}"></i>'
        f'<u style="left:{100 * row["corpus_share"]:.1f}%"></u></span>'
        f'<span class="n">{percent(row["share"], 0)}</span><span class="n">×{decimal(row["lift"], 1)}</span>'
    )


def lens_html(row: Mapping[Any, Any]) -> str:
    """The tokens that the feature's atom promotes and suppresses."""
    up, down = ([float(score) for score in row[f"{side}_scores"]] for side in ("promoted", "suppressed"))
    largest = max((abs(score) for score in [*up, *down]), default=0.0)
    return (
        section("What it predicts next", "Logit lens: the tokens whose logit its atom raises or lowers most, in nats.")
        + token_bars("Promoted", list(row["promoted"]), up, MORE, largest=largest)
        + token_bars("Suppressed", list(row["suppressed"]), down, LESS, largest=largest)
    )


def near_html(title: str, how_to_read: str, found: Sequence[Near], query: Mapping[str, str], *, staged: bool) -> str:
    """Features near to this one, a row each, with a link."""
    rows = "".join(_row(one, query, staged) for one in found)
    return section(title, how_to_read) + f'<div class="sae card">{rows}</div>'


def _row(one: Near, query: Mapping[str, str], staged: bool) -> str:
    tokens = token_chips(one.tokens)
    beside, below = (tokens, "") if one.member is None else (member_chip(one.member, stage=staged), tokens)
    feature = link(query, one.feature, f"Feature {one.feature:,}")
    return f'<div class="near"><div class="row">{feature}{beside}{_said(one)}</div>{_name(one)}{below}</div>'


def _said(one: Near) -> str:
    title = f' title="{escape(one.definition)}"' if one.definition else ""
    return f'<span class="muted"{title}>{escape(one.said)}</span>'


def _name(one: Near) -> str:
    if not one.name:
        return ""
    suggested = ' <span class="muted" title="Made by a rule from the tokens; nobody has checked it">suggested</span>'
    return f'<div class="name">{escape(one.name)}{suggested if one.suggested else ""}</div>'


def keys_html() -> str:
    """Which keys the page knows."""
    said = "".join(f"<span>{token_chip(key)}{escape(what)}</span>" for key, what in KEYS.items())
    return f'<div class="sae legend keys">{said}</div>'
