"""The dashboard's pure parts: escaping, numbers, filters, figures."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from six_features import six_features

from dashboard.shared import address, filters
from dashboard.shared.filters import Filters
from dashboard.shared.look.cards import notice, plain, what_to_run
from dashboard.shared.look.style import stylesheet
from sae_core.foundation import colours, numbers
from sae_core.foundation.errors import UserError
from sae_core.report.html import Cell, Column
from sae_core.report.pieces import cards, histogram, tokens

ATTACK = "<img src=x onerror=alert(1)>"
ESCAPED = "&lt;img src=x onerror=alert(1)&gt;"


@dataclass
class Window:
    position: int
    start: int
    texts: list[str]
    values: list[float]
    peak: float
    metadata: dict[str, object] = field(default_factory=dict)
    row: None = None


def elements(html: str) -> list[str]:
    """Names of all elements that a browser would see."""
    return re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", html)


# Tokens


def test_strip_escapes_tokens_sources_and_tooltips() -> None:
    quote = '"><script>alert(2)</script>'
    example = Window(11, 10, [ATTACK, ATTACK, quote], [0.0, 2.0, 1.0], 2.0, {"module": ATTACK, "name": quote})
    html = tokens.strips([example], 2.0, heading=ATTACK, note=ATTACK)
    assert set(elements(html)) == {"div", "span", "b"}
    assert ESCAPED in html
    assert 'title="&quot;&gt;&lt;script&gt;' in html


def test_strip_colours_only_active_tokens() -> None:
    example = Window(12, 10, ["a", " b", " c", "\n"], [0.0, 0.5, 4.0, 0.0], 4.0, {"module": "numpy.linalg"})
    html = tokens.strip(example, 4.0)
    assert html.count("<span") == 2
    assert html.startswith("a <span")
    assert 'class="a8 pk"' in html
    assert "activation 4.000" in html
    assert "token 12 of the corpus" in html
    assert "numpy.linalg" in html
    assert html.endswith(tokens.NEWLINE)


def test_whitespace_tokens_are_readable() -> None:
    assert tokens.show_alone(" the") == "·the"
    assert tokens.show_alone("\n\n\t ") == "⏎⏎→·"
    assert tokens.show_alone("") == "∅"
    assert tokens.show_in_context(" a\tb\n") == " a→b⏎"


def test_active_spaces_are_seen() -> None:
    assert '">··</span>' in tokens.token_span("  ", 1.0, 1.0, position=0, source="", is_peak=False)


def test_invisible_characters_are_spelt_out() -> None:
    assert tokens.show_in_context("a\u202eb\u200b\x00") == "a\\u202eb\\u200b\\u0000"


def test_source_names_what_is_known() -> None:
    assert tokens.source_of({"module": "scipy.fft", "name": "ifft", "kind": "prose"}) == "scipy.fft · ifft"
    assert tokens.source_of({"source": "notes.csv", "row": "12"}) == "notes.csv · row 12"
    assert tokens.source_of({"source": "notes.csv", "row": ""}) == "notes.csv"
    assert tokens.source_of({}) == ""


def test_activation_level_grows_with_the_activation() -> None:
    levels = [colours.activation_level(value, 8.0) for value in np.linspace(0, 8, 50)]
    assert levels[0] == 0
    assert levels[1] == 1
    assert levels[-1] == colours.ACTIVATION_LEVELS
    assert levels == sorted(levels)
    assert colours.activation_level(9.0, 8.0) == colours.ACTIVATION_LEVELS
    assert colours.activation_level(1.0, 0.0) == 0


def luminance(color: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("theme", "page", "ink"), [(0, (255, 255, 255), (47, 45, 43)), (1, (23, 22, 20), (237, 235, 232))]
)
def test_active_tokens_are_legible_in_both_themes(theme: int, page: tuple[int, ...], ink: tuple[int, ...]) -> None:
    rules = re.findall(r"\.a\d\{background:light-dark\((rgba\(.*?\)),(rgba\(.*?\))\);(color:#1a1206;)?\}", stylesheet())
    assert len(rules) == colours.ACTIVATION_LEVELS
    for rule in rules:
        *base, alpha = (float(part) for part in re.findall(r"[\d.]+", rule[theme]))
        background = tuple(alpha * b + (1 - alpha) * p for b, p in zip(base, page, strict=True))
        text = (26, 18, 6) if rule[2] else ink
        light, dark = sorted((luminance(background), luminance(text)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


# Cards


def test_cards_escape_everything() -> None:
    html = "".join(
        [
            cards.heading(ATTACK, ATTACK, [cards.chip(ATTACK, "#fff", title=ATTACK), cards.member_chip(1)]),
            cards.section(ATTACK, ATTACK),
            cards.tiles([cards.tile(ATTACK, ATTACK, ATTACK, title=ATTACK)]),
            cards.table([Column(ATTACK, ATTACK)], [[Cell(ATTACK, ATTACK)]]),
            cards.token_bars(ATTACK, [ATTACK], [1.0], "#123456", largest=2.0),
            notice(ATTACK, ATTACK, ATTACK),
        ]
    )
    assert "img" not in elements(html)
    assert html.count("&lt;img") >= 14


def test_token_bars_are_as_long_as_their_scores() -> None:
    html = cards.token_bars("", ["a", "b", "c"], [4.0, -2.0, 0.0], "#123456", largest=4.0)
    assert re.findall(r"width:(\d+)%", html) == ["100", "50", "0"]


def test_what_to_run_names_the_command_and_the_folder(tmp_path) -> None:
    assert f"sae-ensemble index {tmp_path}" in what_to_run("index", tmp_path)
    assert "sae-ensemble train &quot;" in what_to_run("train", tmp_path / "my run")


def test_plain_takes_markdown_apart() -> None:
    assert plain("[a](b) **c** $x$ :red[d] <i>") == (r"\[a\]\(b\) \*\*c\*\* \$x\$ \:red\[d\] \<i\>")


# Numbers


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.percent(0.914), "91.4\u202f%"),
        (numbers.percent(0.0), "0.0\u202f%"),
        (numbers.percent(0.00012), "0.012\u202f%"),
        (numbers.percent(math.nan), "–"),
        (numbers.percent(None), "–"),
        (numbers.compact(3212), "3.21k"),
        (numbers.compact(1_200_000), "1.2M"),
        (numbers.compact(12), "12"),
        (numbers.whole(12345), "12,345"),
        (numbers.decimal(1.234), "1.23"),
        (numbers.decimal(0.00004), "4.0e-05"),
        (numbers.decimal(-0.0), "0.00"),
        (numbers.signed(0.0459), "+0.046"),
        (numbers.signed(-0.25, 1), "−0.2"),
        (numbers.signed(-0.0), "+0.000"),
        (numbers.signed(math.nan), "–"),
        (numbers.one_in(1 / 320), "1 in 320 tokens"),
        (numbers.one_in(0.0), "never"),
        (numbers.seconds(4.21), "4.2 s"),
        (numbers.seconds(125), "2 min 5 s"),
        (numbers.seconds(59.7), "1 min 0 s"),
        (numbers.seconds(7260), "2 h 1 min"),
        (numbers.size(1_500_000), "1.5 MB"),
        (numbers.interval(0.908, 0.92), "90.8 – 92.0\u202f%"),
        (numbers.interval(None, 0.92), ""),
        (numbers.moment("2026-01-31T12:00:00Z"), "2026-01-31 12:00 UTC"),
        (numbers.moment("yesterday"), "yesterday"),
    ],
)
def test_numbers_read_well(shown: str, text: str) -> None:
    assert shown == text


# Histogram


def test_histogram_is_an_image_with_a_bar_a_count() -> None:
    html = histogram.histogram_html([0.0, 1.0, 2.0, 3.0], [9, 0, 4])
    assert set(elements(html)) == {"div", "img", "span"}
    uri = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert uri is not None
    root = ElementTree.fromstring(base64.b64decode(uri[1]))
    bars = root.findall(".//{http://www.w3.org/2000/svg}rect")
    heights = [float(bar.get("height", "0")) for bar in bars]
    assert len(heights) == 2
    assert heights[1] / heights[0] == pytest.approx(math.log(5) / math.log(10), rel=1e-3)
    assert "13 tokens from 0.00 to 3.00" in html


def test_histogram_bars_are_as_high_as_their_counts_on_the_linear_scale() -> None:
    rects = re.findall(r'<rect [^>]*height="([\d.]+)"', histogram.bars_svg([9, 0, 4], histogram.LINEAR))
    assert float(rects[1]) / float(rects[0]) == pytest.approx(4 / 9, rel=1e-3)


def test_histogram_of_a_dead_feature_says_so() -> None:
    assert "fired on no token" in histogram.histogram_html([0.0, 1.0], [0])


# Filters


@pytest.fixture
def features() -> pd.DataFrame:
    return six_features()


@pytest.mark.parametrize(
    ("choice", "numbers_left"),
    [
        (Filters(), [0, 3, 1, 4, 5]),
        (Filters(dead="1"), [0, 3, 1, 4, 5, 2]),
        (Filters(member=1), [3, 4, 5]),
        (Filters(search="THE"), [0, 3]),
        (Filters(search="numpy arr"), [1]),
        (Filters(search="["), [4]),
        (Filters(labels="yes"), [3, 1]),
        (Filters(labels="no"), [0, 4, 5]),
        (Filters(stability=0.5), [0, 3, 4]),
        (Filters(density=(0.01, 0.1)), [3, 1, 4]),
        (Filters(sort="feature"), [0, 1, 3, 4, 5]),
        (Filters(sort="peak"), [1, 5, 4, 3, 0]),
        (Filters(sort="stability"), [0, 3, 4, 1, 5]),
        (Filters(sort="label"), [3, 1, 0, 4, 5]),
    ],
)
def test_filters_choose_and_sort(features: pd.DataFrame, choice: Filters, numbers_left: list[int]) -> None:
    assert filters.apply(features, choice)["feature"].tolist() == numbers_left


def test_filters_survive_the_address_bar() -> None:
    choice = Filters("a b", 2, "no", "peak", (1e-4, 0.1), 0.35, "1")
    assert Filters.from_query(choice.to_query()) == choice
    assert Filters().to_query() == {}
    assert Filters.from_query({}) == Filters()


def test_nonsense_in_the_address_bar_counts_as_not_given() -> None:
    nonsense = {"member": "x", "labels": "maybe", "sort": "__class__", "from": "nan", "to": "-", "stability": "inf"}
    assert Filters.from_query(nonsense) == Filters()
    assert Filters.from_query({"from": "0.1", "to": "0.001"}).density == Filters().density
    assert Filters.from_query({"stability": "7"}).stability == 1.0
    assert Filters.from_query({"member": "-1"}).member is None


# Address


def test_only_names_that_exist_are_chosen() -> None:
    assert address.choose("run", None, None, ["a", "b"]) == "a"
    assert address.choose("run", None, "b", ["a", "b"]) == "b"
    assert address.choose("run", None, "gone", ["a", "b"]) == "a"
    assert address.choose("run", "b", "a", ["a", "b"]) == "b"
    with pytest.raises(UserError, match=r"no run called “\.\./b” here; choose one of: a, b"):
        address.choose("run", "../b", "a", ["a", "b"])


def test_feature_numbers_are_checked() -> None:
    assert address.requested_feature(None, 10) is None
    assert address.requested_feature("9", 10) == 9
    for text in ("10", "-1", "1e3", "٣", "9" * 5000, "x"):
        with pytest.raises(UserError, match="numbered 0 to 9"):
            address.requested_feature(text, 10)
