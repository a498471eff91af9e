"""The column beside a feature's examples, as one block of HTML: passages, logit lens, nearest atoms, company.

Links carry ``data-go``: the page answers them itself, and they stay links for a new tab.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from sae_core.foundation.colours import HIGHLIGHT, LESS, MORE
from sae_core.foundation.numbers import decimal, percent, whole
from sae_core.foundation.origin import OF_TOKENS, Words
from sae_core.report.html import Html, element, joined
from sae_core.report.pieces.cards import bar, chip, member_chip, section, token_bars
from sae_core.report.pieces.tokens import token_chip, token_chips

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


def link(query: Mapping[str, str], feature: int, text: str) -> Html:
    """A link to a feature that the page answers without being loaded anew."""
    address = urlencode({**query, "feature": str(feature)})
    return element("a", text, href=f"?{address}", data_go=str(feature))


def suggestion_html(row: Mapping[Any, Any] | None, words: Words = OF_TOKENS) -> Html:
    """The suggested label with its figures as a detector, or why there is none.

    Args:
        row: The feature's row of suggestions; None if the run was indexed by a version that made none.
        words: What rows are called.
    """
    mark = chip("suggestion", HIGHLIGHT, title=f"Made by a rule from the {words.told_by}s; nobody has checked it")
    if row is None:
        said = element("span", "none yet: sae-ensemble index adds them to this run", kind="muted")
    elif not row["suggestion"]:
        said = element("span", f"none: no simple rule on {words.told_by}s foretells where it fires", kind="muted")
    else:
        holds, fires, both = whole(row["holds"]), whole(row["fires"]), whole(row["both"])
        figures = (
            element(
                "span",
                f"precision {percent(row['precision'], 0)}",
                title=f"It fires on {both} of the {holds} {words.rows} there where the rule holds as it reads",
            ),
            element(
                "span",
                f"recall {percent(row['recall'], 0)}",
                title=f"The rule holds on {both} of the {fires} {words.rows} there on which it fires",
            ),
            element(
                "span",
                f"{decimal(row['lift'], 1)} times as often",
                title=f"How many times more often it fires where the rule holds than on any {words.row}",
            ),
        )
        where = element("span", f"on the other half of the {words.whole}", title=words.halves)
        first, second, third = figures
        said = joined(
            element("b", str(row["suggestion"])),
            element("span", first, " · ", second, " · ", third, " ", where, kind="muted"),
        )
    return element("div", mark, said, kind="sae suggest")


def passages_html(shares: pd.DataFrame, words: Words = OF_TOKENS) -> Html:
    """The share of each label among the passages (or what `words` calls them) in which the feature fires."""
    if shares.empty:
        return Html()
    blocks = [
        section(
            words.shares,
            f"Share of each label among the {words.passages} in which it fires; the mark is its share of all "
            f"{words.passages}, and × how many times that it is.",
        )
    ]
    for column, found in groupby(shares.to_dict("records"), key=itemgetter("column")):
        labels = list(found)
        rest = len(labels) - LABELS_SHOWN
        more = element("span", f"and {rest} more", kind="t") if rest > 0 else ""
        shown = [_share(row, words.passages) for row in labels[:LABELS_SHOWN]]
        blocks.append(element("div", element("span", str(column), kind="t"), *shown, more, kind="sae bars shares"))
    return joined(*blocks)


def _share(row: Mapping[Any, Any], passages: str) -> Html:
    title = (
        f"{row['label']}: {whole(row['passages'])} {passages}, {percent(row['share'])} of those in which it fires; "
        f"{percent(row['corpus_share'])} of all"
    )
    mark = element("u", style=f"left:{100 * row['corpus_share']:.1f}%")
    return joined(
        element("span", row["label"], kind="lab", title=title),
        bar(round(100 * row["share"], 1), MORE, mark, title=title),
        element("span", percent(row["share"], 0), kind="n"),
        element("span", f"×{decimal(row['lift'], 1)}", kind="n"),
    )


def lens_html(row: Mapping[Any, Any]) -> Html:
    """The tokens that the feature's atom promotes and suppresses."""
    up, down = ([float(score) for score in row[f"{side}_scores"]] for side in ("promoted", "suppressed"))
    largest = max((abs(score) for score in [*up, *down]), default=0.0)
    return (
        section("What it predicts next", "Logit lens: the tokens whose logit its atom raises or lowers most, in nats.")
        + token_bars("Promoted", list(row["promoted"]), up, MORE, largest=largest)
        + token_bars("Suppressed", list(row["suppressed"]), down, LESS, largest=largest)
    )


def near_html(title: str, how_to_read: str, found: Sequence[Near], query: Mapping[str, str], *, staged: bool) -> Html:
    """Features near to this one, a row each, with a link."""
    return section(title, how_to_read) + element("div", *(_row(one, query, staged) for one in found), kind="sae card")


def _row(one: Near, query: Mapping[str, str], staged: bool) -> Html:
    tokens = token_chips(one.tokens)
    beside, below = (tokens, Html()) if one.member is None else (member_chip(one.member, stage=staged), tokens)
    feature = link(query, one.feature, f"Feature {one.feature:,}")
    said = element("span", one.said, kind="muted", title=one.definition)
    return element("div", element("div", feature, beside, said, kind="row"), _name(one), below, kind="near")


def _name(one: Near) -> Html:
    if not one.name:
        return Html()
    why = "Made by a rule from the tokens; nobody has checked it"
    suggested = [" ", element("span", "suggested", kind="muted", title=why)] if one.suggested else []
    return element("div", one.name, *suggested, kind="name")


def keys_html() -> Html:
    """Which keys the page knows."""
    said = (element("span", token_chip(key), what) for key, what in KEYS.items())
    return element("div", *said, kind="sae legend keys")
