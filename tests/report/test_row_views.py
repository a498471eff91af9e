"""Rows that are no tokens: what they have is drawn, their texts stay texts, and a series says where it fires."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from sae_core.activations.rows_shown import RowShown
from sae_core.report.pieces.row_views import row_html
from sae_core.report.pieces.tokens import legend, strips

EVIL = '<img src=x onerror="alert(1)">'


@dataclass
class Shown:
    row: RowShown
    position: int = 12
    start: int = 10
    texts: list[str] = field(default_factory=lambda: ["worn", "worn", "fine"])
    values: list[float] = field(default_factory=lambda: [0.0, 1.0, 4.0])
    peak: float = 4.0
    metadata: dict[str, object] = field(default_factory=dict)


def picture(size: int = 4, kind: str = "PNG") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (size, size), (200, 0, 0)).save(written, kind)
    return written.getvalue()


def test_every_text_of_a_row_is_escaped() -> None:
    row = RowShown(
        EVIL, EVIL, EVIL + "x" * 700, picture(), {EVIL: EVIL}, ("1", "2", EVIL), np.zeros((3, 2), np.float32)
    )
    for html in (
        strips([Shown(row, texts=[EVIL] * 3, metadata={EVIL: EVIL})], 4.0),
        strips([Shown(RowShown(EVIL, EVIL, image=picture(), fields={"a": EVIL}), 10, 10, [EVIL], [4.0])], 4.0),
        strips([Shown(RowShown(EVIL, EVIL), 10, 10, [EVIL], [4.0])], 4.0),
    ):
        assert "<img src=x" not in html
        assert "&lt;img src=x" in html


def test_images_stand_side_by_side_unless_they_have_a_text() -> None:
    alone, told = (
        RowShown("a", "a.npy · row 1", text, picture(kind=kind)) for text, kind in ((None, "PNG"), ("t", "JPEG"))
    )
    tiles = strips([Shown(alone, 10, 10, ["seven"], [2.0]) for _ in range(3)], 4.0)
    assert tiles.count("<figure") == 3
    assert "seven" in tiles
    assert "data:image/png;base64," in tiles
    rows = strips([Shown(told, 10, 10, ["seven"], [2.0])], 4.0)
    assert "<figure" not in rows
    assert "data:image/jpeg;base64," in rows
    assert "a.npy · row 1" in rows


def test_a_series_draws_its_curve_and_the_activation_under_it() -> None:
    signal = np.sin(np.arange(12, dtype=np.float32)).reshape(3, 4)
    html = row_html(
        RowShown("a", "a", places=("1", "1.5", "2"), signal=signal), [0.0, 1.0, 4.0], 2, ["worn", "worn", "fine"], 4.0
    )
    drawn = re.search(r"data:image/svg\+xml;base64,([^\"]+)", html)
    assert drawn is not None
    svg = b64decode(drawn[1]).decode()
    bars = [float(height) for height in re.findall(r'height="([\d.]+)" fill="#e8772e"', svg)]
    assert bars == [5.0, 20.0]  # a quarter of the peak, and the peak
    curve = re.search(r'd="M([^"]+)" fill="none"', svg)
    assert curve is not None
    heights = [float(point.split()[1]) for point in curve[1].split("L")]
    assert np.corrcoef(heights, signal.ravel())[0, 1] < -0.999  # up is less in an image
    assert html.count("worn</span>") == 1  # one name for the stretch of both
    assert "flex:2 1 0" in html


def test_the_legend_explains_signs_of_tokens_for_tokens_alone() -> None:
    assert "line end" in legend(1.0)
    assert "line end" not in legend(1.0, tokens=False)
