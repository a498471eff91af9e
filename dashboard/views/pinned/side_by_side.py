"""Features side by side: a column each, with figures, histograms and examples at one height; it scrolls sideways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboard.shared.look.colors import method_color
from sae_core.foundation.colours import HIGHLIGHT
from sae_core.report.html import Html, element
from sae_core.report.pieces.cards import chip, member_chip
from sae_core.report.pieces.histogram import histogram_html
from sae_core.report.pieces.tokens import ExampleLike, strip

# Sections of all columns share their rows (subgrid), so that figures stand beside figures.
_RULES = """
.sae.beside{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(14rem,1fr);gap:0 1.1rem;overflow-x:auto;
  grid-template-rows:repeat(4,auto);padding-bottom:.6rem;scroll-snap-type:x proximity}
.sae.beside>div{display:grid;grid-row:1/-1;grid-template-rows:subgrid;border:1px solid var(--line);
  border-radius:.6rem;padding:.8rem .9rem;min-width:0;scroll-snap-align:start}
.sae.beside h2{font-size:1.1rem;margin:0 0 .4rem;padding:0;font-weight:620}
.sae.beside .chips{display:flex;flex-wrap:wrap;gap:.3rem}
.sae.beside dl{display:grid;grid-template-columns:1fr auto;gap:.12rem .8rem;margin:.8rem 0 0;padding:0;font-size:.88rem;
  font-variant-numeric:tabular-nums}
.sae.beside dt{margin:0;padding:0;color:var(--muted);font-weight:400;cursor:help}
.sae.beside dd{margin:0;padding:0;text-align:right}
.sae.beside h3{font-size:.82rem;font-weight:500;color:var(--muted);margin:.9rem 0 .1rem;padding:0}
.sae.beside .ex{border-bottom:1px solid var(--line);padding:.35rem 0}
.sae.beside .ex:last-child{border-bottom:0}
.sae.beside .plot{margin:0}
""".replace("\n", "")
_NONE = element("p", "It fires on none of the indexed tokens.")


@dataclass(frozen=True, slots=True)
class Beside:
    """One column.

    Attributes:
        feature: Its number.
        ensemble: What people call its ensemble.
        method: The ensemble's name, which decides its colour.
        member: Its member.
        staged: Whether members are stages.
        label: What people call it; empty if nothing.
        figures: Name, value and definition of each figure, the same names for every column.
        examples: Where it fires most.
        edges: Bin edges of its histogram.
        counts: Tokens in each bin.
        peak: Its largest activation.
    """

    feature: int
    ensemble: str
    method: str
    member: int
    staged: bool
    label: str
    figures: Sequence[tuple[str, str, str]]
    examples: Sequence[ExampleLike]
    edges: Sequence[float]
    counts: Sequence[int]
    peak: float


def side_by_side(columns: Sequence[Beside]) -> Html:
    """All columns."""
    return Html(f"<style>{_RULES}</style>") + element("div", *map(_column, columns), kind="sae beside")


def _column(one: Beside) -> Html:
    chips = [chip(one.ensemble, method_color(one.method)), member_chip(one.member, stage=one.staged)]
    if one.label:
        chips.append(chip(one.label, HIGHLIGHT, title="label"))
    figures = (element("dt", name, title=definition) + element("dd", value) for name, value, definition in one.figures)
    examples = [element("div", strip(example, one.peak), kind="ex txt") for example in one.examples]
    return element(
        "div",
        element("div", element("h2", f"Feature {one.feature:,}"), element("div", *chips, kind="chips")),
        element("dl", *figures),
        element("div", element("h3", "How strongly it fires"), histogram_html(one.edges, one.counts)),
        element("div", element("h3", "Where it fires most"), *examples or [_NONE]),
    )
