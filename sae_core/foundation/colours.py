"""Colours with a fixed meaning, for the dashboard and the report: one per member, a ramp for activation.

People with a common colour-vision deficiency can tell the members' hues apart (after Okabe and Ito 2008). All hues are
dark enough for a white page and light enough for a dark page. Activation is one hue that changes in lightness only.
"""

from __future__ import annotations

MEMBERS = ("#3a9bdc", "#e08e00", "#b8609a", "#7e8c2e", "#2fa79a", "#a8483f", "#7a6fd0", "#7a8190")
FAMILY_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#8f6fd0", "#7f7f00")
"""Colours of families on a text; members have others."""
NEUTRAL = "#98a1ad"
"""The colour for no category: unlabelled features, features outside every cluster, nulls."""
HIGHLIGHT = "#e8772e"
MORE, LESS = "#2c7fd1", "#d9622b"
"""For what a feature raises and what it lowers."""
SEQUENTIAL = "Viridis"
"""Plotly's colour scale for quantities; readable in grey and by colour-blind people, on light and dark pages."""

ACTIVATION_LEVELS = 8
_ACTIVATION_LIGHT = (238, 126, 40)
_ACTIVATION_DARK = (255, 152, 66)


def member_color(member: int) -> str:
    """The colour of a member; colours repeat from the ninth member on."""
    return MEMBERS[member % len(MEMBERS)]


def activation_level(value: float, peak: float) -> int:
    """The level of an activation: 0 if zero, else 1 (weak) to `ACTIVATION_LEVELS` (the feature's peak)."""
    if value <= 0 or peak <= 0:
        return 0
    return max(1, min(ACTIVATION_LEVELS, round(ACTIVATION_LEVELS * value / peak + 0.25)))


def activation_css() -> str:
    """Return the CSS classes a1 … a8: the background of an active token, in a light and in a dark theme."""
    rules = []
    for level in range(1, ACTIVATION_LEVELS + 1):
        share = level / ACTIVATION_LEVELS
        light = _rgba(_ACTIVATION_LIGHT, 0.10 + 0.72 * share)
        # The strong half has dark text in both themes. On a dark page the ramp skips the backgrounds on which people
        # can read neither light nor dark text well.
        strong = share > 0.5
        dark = _rgba(_ACTIVATION_DARK, 0.45 + 0.5 * share if strong else 0.12 + 0.6 * share)
        text = "color:#1a1206;" if strong else ""
        rules.append(f".sae .a{level}{{background:light-dark({light},{dark});{text}}}")
    return "".join(rules)


def _rgba(color: tuple[int, int, int], alpha: float) -> str:
    return f"rgba({color[0]},{color[1]},{color[2]},{alpha:.2f})"
