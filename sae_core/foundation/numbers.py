"""Format numbers for people: 91.4 %, 3.2k, 1 in 320, 2 min 5 s. A missing figure is a dash."""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"
THIN_SPACE = "\u202f"


def is_missing(value: Any) -> bool:
    """Whether a figure is missing: None, NaN or pandas' NA."""
    if value is None:
        return True
    try:
        return math.isnan(float(value))
    except (TypeError, ValueError):
        return True


def percent(share: Any, digits: int = 1) -> str:
    """0.914 as ``91.4 %``; shares that would round to zero keep two significant digits."""
    if is_missing(share):
        return MISSING
    value = 100 * float(share)
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.2g}{THIN_SPACE}%" if abs(value) >= 1e-4 else f"<0.0001{THIN_SPACE}%"
    return f"{value:.{digits}f}{THIN_SPACE}%"


def compact(count: Any) -> str:
    """3212 as ``3.2k``, 1200000 as ``1.2M``; below a thousand the number itself."""
    if is_missing(count):
        return MISSING
    value = float(count)
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def flops(count: Any) -> str:
    """1.57e12 as ``1.57 TFLOP``."""
    text = compact(count)
    return f"{text[:-1]} {text[-1]}FLOP" if text[-1].isalpha() else f"{text} FLOP"


def whole(count: Any) -> str:
    """12345 as ``12,345``."""
    return MISSING if is_missing(count) else f"{int(count):,}"


def decimal(value: Any, digits: int = 2) -> str:
    """A figure with a fixed number of decimals; in scientific notation if the decimals would all be zero."""
    if is_missing(value):
        return MISSING
    figure = float(value)
    if figure != 0 and abs(figure) < 0.5 * 10**-digits:
        return f"{figure:.1e}"
    return f"{figure + 0.0:,.{digits}f}"  # + 0.0 removes the sign of a negative zero


def signed(value: Any, digits: int = 3) -> str:
    """0.0459 as ``+0.046``, with a true minus sign."""
    return MISSING if is_missing(value) else f"{float(value) + 0.0:+.{digits}f}".replace("-", "−")


def interval(low: Any, high: Any) -> str:
    """The interval of a share, as ``90.8 – 92.0 %``; empty if there is no interval."""
    if is_missing(low) or is_missing(high):
        return ""
    return f"{100 * float(low):.1f} – {100 * float(high):.1f}{THIN_SPACE}%"


def one_in(density: Any, rows: str = "tokens") -> str:
    """A density as ``1 in 320 tokens``; ``never`` for a dead feature."""
    if is_missing(density):
        return MISSING
    if float(density) <= 0:
        return "never"
    return f"1 in {compact(round(1 / float(density)))} {rows}"


def seconds(duration: Any) -> str:
    """125 as ``2 min 5 s``."""
    if is_missing(duration):
        return MISSING
    value = float(duration)
    if value < 59.5:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def micro(value: float) -> str:
    """A time in microseconds."""
    return f"{1e6 * value:.3g} µs"


def moment(time: str) -> str:
    """2026-01-31T12:00:00Z as ``2026-01-31 12:00 UTC``; anything else as it is."""
    return f"{time[:10]} {time[11:16]} UTC" if len(time) == 20 and time[10] == "T" and time[-1] == "Z" else time


def size(number_of_bytes: Any) -> str:
    """1500000 as ``1.5 MB``."""
    if is_missing(number_of_bytes):
        return MISSING
    value = float(number_of_bytes)
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.0f} B"
