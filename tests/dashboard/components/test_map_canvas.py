"""The map's canvas: its scripts in a real browser beside plain references, and what it sends and receives."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dashboard.components import map_canvas
from dashboard.components.map_canvas import base64_of, bits_of, clicked, listed
from sae_core.foundation.numbering import named

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
EXPORTED = "export { Points, View, blend, disc, legendOf, packed, paint, pixelOf, pointRadius, stride, unpacked, Tip };"


# What is sent and received


def test_the_script_has_nothing_to_import_and_one_component() -> None:
    lines = map_canvas.script().splitlines()
    assert [line for line in lines if line.startswith(("import ", "export "))] == [
        "export default function (component) {"
    ]


def test_listed_points_are_those_of_the_bits() -> None:
    flags = np.random.default_rng(0).random(77) < 0.4
    value = {"by": "lasso", "points": "key", "bits": bits_of(flags)}
    found = listed(value, "key", 77)
    assert found is not None
    assert found.by == "lasso"
    assert found.points.tolist() == np.flatnonzero(flags).tolist()


@pytest.mark.parametrize(
    "value",
    [
        None,
        "text",
        {},
        {"points": "other", "bits": bits_of(np.ones(77, bool))},
        {"points": "key", "bits": 3},
        {"points": "key", "bits": "no base64!"},
        {"points": "key", "bits": bits_of(np.ones(90, bool))},
    ],
)
def test_what_a_browser_should_not_send_is_no_list(value: object) -> None:
    assert listed(value, "key", 77) is None


@pytest.mark.parametrize("value", [None, -1, 77, 1.0, True, "3", [3], {"a": 1}])
def test_what_a_browser_should_not_send_is_no_point(value: object) -> None:
    assert clicked(value, 77) is None
    assert clicked(76, 77) == 76


def test_arrays_are_sent_little_endian() -> None:
    assert base64.b64decode(base64_of(np.array([1, 258], ">u2"))) == b"\x01\x00\x02\x01"


# The scripts


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = chromium.new_page()
        load = """async text => {
            window.m = await import(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
        }"""
        page.evaluate(load, map_canvas.script() + EXPORTED)
        yield page
        chromium.close()


@pytest.fixture(scope="module")
def places() -> np.ndarray:
    """Points with crowded places, several points at one place, and the corners."""
    generator = np.random.default_rng(1)
    centres = generator.uniform(0, 65535, (12, 2))
    spread = np.clip(generator.normal(centres[generator.integers(0, 12, 900)], 1500), 0, 65535)
    return np.concatenate([spread, spread[:20], [[0, 0], [65535, 65535], [0, 65535]]]).astype(np.uint16)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    generator = np.random.default_rng(2)
    return [f"{generator.choice(['Array', 'tensor', 'the'])} {number % 7}" for number in range(923)]


@pytest.fixture(scope="module")
def points(page: Any, places: np.ndarray, texts: list[str]) -> Any:
    values = sorted(set(texts))
    index = np.array([values.index(text) for text in texts], np.uint32)
    columns = [{"title": "token", "values": values, "index": base64_of(index)}]
    x, y = (base64_of(places[:, axis]) for axis in (0, 1))
    data = {"key": "k", "count": len(places), "x": x, "y": y, "columns": columns}
    page.evaluate("data => { window.points = new m.Points(data) }", data)
    return page


def flags_of(page: Any, script: str, argument: Any) -> list[int]:
    """The numbers of the points whose flags a script returns."""
    bits = page.evaluate(f"argument => m.packed({script})", argument)
    found = listed({"points": "k", "bits": bits}, "k", 923)
    assert found is not None
    return found.points.tolist()


class TestScripts:
    """Run in Chromium."""

    pytestmark = in_browser

    def test_flags_travel_both_ways(self, page: Any) -> None:
        flags = (np.random.default_rng(3).random(21) < 0.5).astype(int).tolist()
        assert page.evaluate("flags => [...m.unpacked(m.packed(Uint8Array.from(flags)), 21)]", flags) == flags

    def test_the_nearest_point_is_that_of_all_distances(self, points: Any, places: np.ndarray) -> None:
        asked = np.random.default_rng(4).uniform(-3000, 68000, (60, 2))
        radius = 2500
        script = """({asked, radius}) =>
            asked.map(([x, y]) => points.nearest({x, y}, radius, i => i % 5 > 0))"""
        found = points.evaluate(script, {"asked": asked.tolist(), "radius": radius})
        distance = np.linalg.norm(asked[:, None] - places[None].astype(float), axis=2)
        distance[:, ::5] = np.inf  # those that are not shown
        expected = np.where(distance.min(axis=1) < radius, distance.argmin(axis=1), -1)
        assert found == expected.tolist()
        assert (expected >= 0).any()
        assert (expected < 0).any()

    def test_a_lasso_holds_what_even_and_odd_crossings_say(self, points: Any, places: np.ndarray) -> None:
        generator = np.random.default_rng(5)
        for corners in (3, 9, 40):
            line = generator.uniform(-5000, 70000, (corners, 2))  # crosses itself, and reaches outside
            argument = [{"x": x, "y": y} for x, y in line.tolist()]
            found = flags_of(points, "points.inside(argument, i => i % 3 > 0)", argument)
            expected = [i for i in range(len(places)) if i % 3 and is_inside(line, places[i].astype(float))]
            assert found == expected
            assert expected

    def test_a_line_of_two_points_holds_nothing(self, points: Any) -> None:
        assert flags_of(points, "points.inside(argument, () => true)", [{"x": 0, "y": 0}, {"x": 9, "y": 9}]) == []

    @pytest.mark.parametrize(
        "query",
        [
            "array",
            "ARRAY 3",
            "the 6",
            "17",
            "  ",
            "nothing of it",
            "1:6",
            "01:006",
            "the 0:3",
            "3:1",
            "1:",
            ":6",
            "1:6:0",
        ],
    )
    def test_a_search_finds_all_words(self, points: Any, texts: list[str], query: str) -> None:
        """Members of 20: a word names a point as it does in the search for features."""
        place = "i => ({number: i, member: Math.floor(i / 20), latent: i % 20})"
        found = flags_of(points, f"points.search(argument, {place})", query)
        words = query.lower().split()
        fits = [
            all(word in text.lower() or word == str(i) or named(word) == (i // 20, i % 20) for word in words)
            for i, text in enumerate(texts)
        ]
        assert found == [i for i, fit in enumerate(fits) if fit and words]
        if query == "1:6":
            assert 26 in found

    def test_a_stride_visits_every_number(self, page: Any) -> None:
        for count in (1, 2, 3, 7, 60, 923, 131072):
            step = page.evaluate("count => m.stride(count)", count)
            assert np.gcd(step, count) == 1

    def test_zooming_keeps_the_place_under_the_pointer(self, page: Any) -> None:
        script = """() => {
            const view = new m.View(); view.width = 800; view.height = 500;
            const pixel = {x: 210, y: 333}, before = view.toMap(pixel);
            view.zoomAt(3.7, pixel);
            const at = view.toScreen(before);
            view.pan(30, -20);
            const moved = view.toScreen(before), back = view.toMap(moved);
            const pairs = [[at, pixel], [moved, at], [back, before]];
            return pairs.flatMap(([a, b]) => [a.x - b.x, a.y - b.y]);
        }"""
        assert np.allclose(page.evaluate(script), [0, 0, 30, -20, 0, 0], atol=1e-6)

    def test_blending_is_that_of_every_channel(self, page: Any) -> None:
        colors = np.random.default_rng(6).integers(0, 256, (50, 2, 3))
        covers = np.random.default_rng(7).integers(0, 129, 50)
        script = """({colors, covers}) => colors.map(([below, above], k) => {
            const value = m.blend(m.pixelOf(below), m.pixelOf(above), covers[k]) >>> 0;
            return [value & 255, (value >> 8) & 255, (value >> 16) & 255, value >>> 24];
        })"""
        named = [["#{:02x}{:02x}{:02x}".format(*color) for color in pair] for pair in colors.tolist()]
        found = np.array(page.evaluate(script, {"colors": named, "covers": covers.tolist()}))
        share = covers[:, None] / 128
        assert np.abs(found[:, :3] - (colors[:, 0] * (1 - share) + colors[:, 1] * share)).max() <= 1
        assert (found[:, 3] == 255).all()

    @pytest.mark.parametrize(("left", "top"), [(20, 30), (0, 0), (59, 39), (-1, 41)])
    def test_a_point_is_painted_as_a_disc_and_clipped(self, page: Any, left: int, top: int) -> None:
        script = """([left, top]) => {
            const encode = array => btoa(String.fromCharCode(...new Uint8Array(array.buffer)));
            const zero = encode(new Uint16Array(3));
            const points = new m.Points({key: "p", count: 3, x: zero, y: zero, columns: []});
            const pixels = new Uint32Array(60 * 40);
            const colors = Uint32Array.of(m.pixelOf("#ff0000"), m.pixelOf("#00ff00"));
            const scene = {points, start: 0, stop: 2, colors, colorOf: Uint8Array.of(0, 1, 1),
                front: new Uint8Array(256), hidden: Uint8Array.of(0, 1, 0), lit: null,
                background: m.pixelOf("#000000"), radius: 3};
            m.paint({pixels, width: 60, height: 40}, scene, {scale: 1, left, top});
            return [...pixels].map(value => [value & 255, (value >> 8) & 255]);
        }"""
        found = np.array(page.evaluate(script, [left, top])).reshape(40, 60, 2)
        y, x = np.mgrid[:40, :60]
        covered = np.clip(3.5 - np.hypot(x - left, y - top), 0, 1)
        assert np.abs(found[..., 0] - 255 * 0.82 * covered).max() <= 3
        assert not found[..., 1].any()  # the other points are hidden, or of another panel

    def test_lit_points_lie_above_dimmed_ones(self, page: Any) -> None:
        script = """() => {
            const zero = btoa("\\0\\0\\0\\0");
            const points = new m.Points({key: "p", count: 2, x: zero, y: zero, columns: []});
            const pixels = new Uint32Array(400), colors = Uint32Array.of(m.pixelOf("#ff0000"), m.pixelOf("#00ff00"));
            const scene = {points, start: 0, stop: 2, colors, colorOf: Uint8Array.of(0, 1), front: new Uint8Array(256),
                hidden: new Uint8Array(2), background: m.pixelOf("#000000"), radius: 2};
            return [[1, 0], [0, 1]].map(lit => {
                const picture = {pixels, width: 20, height: 20}, at = {scale: 1, left: 10, top: 10};
                m.paint(picture, {...scene, lit: Uint8Array.from(lit)}, at);
                return [pixels[210] & 255, (pixels[210] >> 8) & 255];
            });
        }"""
        (red, green), (other_red, other_green) = page.evaluate(script)
        assert red > 230 > 30 > green
        assert other_green > 230 > 30 > other_red

    def test_texts_never_become_elements(self, page: Any) -> None:
        script = """text => {
            const legend = m.legendOf({title: text, entries: [{text, color: 0}]}, ["#ff0000"], new Set(), () => {});
            const tip = new m.Tip();
            document.body.append(legend, tip.element);
            tip.show([["", text], [text, text]], {x: 0, y: 0}, {width: 100, height: 100});
            return [document.querySelectorAll("img").length, tip.element.textContent, legend.textContent];
        }"""
        text = "<img src=x onerror=alert(1)>"
        assert page.evaluate(script, text) == [0, 3 * text, 2 * text]


def is_inside(line: np.ndarray, place: np.ndarray) -> bool:
    """The even-odd rule, edge by edge."""
    inside = False
    for (ax, ay), (bx, by) in zip(line, np.roll(line, -1, axis=0), strict=True):
        if (ay > place[1]) != (by > place[1]) and place[0] < (bx - ax) * (place[1] - ay) / (by - ay) + ax:
            inside = not inside
    return inside
