"""The stylesheet of all HTML parts: the rules of the shared pieces, and those that only the dashboard needs.

Streamlit's theme decides between light and dark, as `sae_core.report.pieces.style` describes.
"""

from __future__ import annotations

from sae_core.foundation.colours import HIGHLIGHT, MEMBERS, MORE
from sae_core.report.pieces.style import RULES

_RULES = """
.st-key-stylesheet,.st-key-map-points{display:none}
.stMainBlockContainer{padding:3.2rem 3rem 4rem;max-width:1320px}
.sae.legend .key{display:inline-flex;align-items:center;gap:.35rem}
.sae.shares{grid-template-columns:minmax(0,8.5rem) 1fr 2.4rem 2.8rem}
.sae.shares .lab{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-size:.84rem}
.sae.shares .b{position:relative}
.sae.shares .b u{position:absolute;top:-.15rem;bottom:-.15rem;width:2px;background:currentColor}
.sae.suggest{display:flex;flex-wrap:wrap;gap:.25rem .7rem;align-items:baseline;overflow-wrap:anywhere}
.sae.suggest span[title]{cursor:help}
.sae.card .near{padding:.5rem 0;border-bottom:1px solid var(--line)}
.sae.card .near:last-child{border-bottom:0}
.sae.card .near .row{flex-wrap:wrap}
.sae.card .near .row .tok{margin:0}
.sae.card .near span[title]{cursor:help}
.sae.card .name{font-size:.86rem;margin:0 0 .25rem;overflow-wrap:anywhere}
.sae.legend.keys .tok{margin:0 .3rem 0 0}
.sae.notice{border:1px solid var(--line);border-left:3px solid var(--sae-highlight);border-radius:.5rem;
  padding:.85rem 1.1rem;background:var(--soft)}
.sae.notice b{display:block;font-weight:600}
.sae.notice p{margin:.25rem 0 0;color:var(--muted)}
.sae.notice pre{margin:.6rem 0 0;padding:.5rem .7rem;border-radius:.4rem;background:var(--soft);
  white-space:pre-wrap;overflow-wrap:anywhere;font-size:.84rem}
.sae .answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:.4rem 2.2rem}
.sae .answers h3{font-size:.98rem;font-weight:620;margin:.5rem 0 .1rem;padding:0}
.sae .answers ul{margin:.1rem 0;padding-left:1.1rem}
.sae .answers li{margin:.25rem 0;font-size:.88rem;overflow-wrap:anywhere}
.st-key-pages{row-gap:.4rem}
.sae.card .row{display:flex;align-items:center;gap:.45rem;margin-bottom:.3rem}
.sae.brand{font-weight:650;font-size:1rem;letter-spacing:-.01em}
.sae.brand small{display:block;font-weight:400;color:var(--muted);font-size:.8rem;overflow-wrap:anywhere}
@media (max-width:640px){
  .stMainBlockContainer{padding:4.2rem 1rem 3rem}
  .sae.strips .ex{grid-template-columns:2.4rem minmax(0,1fr);column-gap:.6rem}
  .sae.tiles{grid-template-columns:repeat(2,minmax(0,1fr))}
  .sae.head h1{font-size:1.45rem}
}
"""


def stylesheet() -> str:
    """All rules in one style element."""
    # Variables reach into components, too, which other rules do not.
    colours = f":root{{--sae-highlight:{HIGHLIGHT};--sae-more:{MORE};--sae-against:{MEMBERS[0]}}}"
    rules = colours + RULES + _RULES
    return f"<style>{rules}</style>".replace("\n", "")
