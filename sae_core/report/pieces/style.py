"""The rules of the style sheet for the pieces of HTML that the dashboard and notebooks share.

Every rule is scoped to the class ``sae``. Every colour is `light-dark()` or a share of the text's own colour, so the
page around the piece decides between light and dark.
"""

from __future__ import annotations

from sae_core.foundation.colours import activation_css

_RULES = """
.sae{--line:color-mix(in srgb,currentColor 14%,transparent);--soft:color-mix(in srgb,currentColor 5%,transparent);
  --muted:color-mix(in srgb,currentColor 68%,transparent);font-size:.92rem;line-height:1.5}
.sae *{box-sizing:border-box}
.sae code{background:none;color:inherit;padding:0;font-size:.92em}
.sae .muted,.sae .note{color:var(--muted)}
.sae .note{font-size:.84rem;margin:.15rem 0 0}
.sae.head h1{font-size:1.75rem;line-height:1.2;margin:0;padding:0;font-weight:650;letter-spacing:-.012em}
.sae.head p{margin:.45rem 0 0;color:var(--muted);max-width:75ch}
.sae.head .chips{display:flex;flex-wrap:wrap;gap:.4rem;margin:.55rem 0 0}
.sae.section{margin:.9rem 0 0}
.sae.section h2{font-size:1.12rem;font-weight:620;margin:0;padding:0;letter-spacing:-.005em}
.sae.section p{margin:.2rem 0 0;color:var(--muted);font-size:.86rem;max-width:85ch}
.sae .chip,.sae.chip{display:inline-flex;align-items:center;gap:.4rem;border:1px solid var(--line);
  border-radius:999px;padding:.1rem .65rem;font-size:.82rem;white-space:nowrap;max-width:100%;overflow:hidden;
  text-overflow:ellipsis}
.sae .dot{display:inline-block;flex:none;width:.62rem;height:.62rem;border-radius:50%}
.sae.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(128px,1fr));gap:.7rem}
.sae.tiles>div{border:1px solid var(--line);border-radius:.6rem;padding:.65rem .85rem;min-width:0}
.sae.tiles .k{color:var(--muted);font-size:.78rem;display:block}
.sae.tiles .v{font-size:1.22rem;font-weight:600;font-variant-numeric:tabular-nums;display:block;line-height:1.35;
  overflow-wrap:anywhere}
.sae.tiles .s{color:var(--muted);font-size:.78rem;display:block;overflow-wrap:anywhere}
.sae .scroll{overflow-x:auto}
.sae table{border-collapse:collapse;width:100%;margin:0;font-variant-numeric:tabular-nums}
.sae th,.sae td{border:0;border-bottom:1px solid var(--line);padding:.55rem .8rem .55rem 0;text-align:right;
  white-space:nowrap;vertical-align:top}
.sae tbody th{font-weight:inherit}
.sae thead th{font-size:.78rem;font-weight:500;color:var(--muted);vertical-align:bottom;white-space:normal}
.sae th[title]{text-decoration:underline dotted color-mix(in srgb,currentColor 45%,transparent);
  text-underline-offset:3px;cursor:help}
.sae th:first-child{text-align:left}
.sae table .dot{margin-right:.5rem}
.sae td small,.sae th small{display:block;color:var(--muted);font-size:.76rem}
.sae tbody tr:last-child>*{border-bottom:0}
.sae th.text,.sae td.text{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:4.5rem}
.sae.strips{margin:.1rem 0 .6rem}
.sae.strips .sub{display:flex;flex-wrap:wrap;gap:.2rem .7rem;align-items:baseline;margin:.9rem 0 .15rem}
.sae.strips .sub b{font-weight:600}
.sae.strips .sub span{color:var(--muted);font-size:.82rem}
.sae.strips .ex{display:grid;grid-template-columns:2.9rem minmax(0,1fr);column-gap:.9rem;
  padding:.42rem 0;border-bottom:1px solid var(--line);align-items:baseline}
.sae.strips .ex:last-child{border-bottom:0}
.sae.strips .val{text-align:right;font-variant-numeric:tabular-nums;color:var(--muted);font-size:.82rem}
.sae.strips .src{grid-column:2;color:var(--muted);font-size:.75rem;overflow-wrap:anywhere;line-height:1.4}
.sae .txt{font-family:"Source Code Pro",ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.82rem;
  line-height:1.7;white-space:pre-wrap;overflow-wrap:anywhere;overflow:hidden}
.sae .txt span{border-radius:3px;padding:1px 0;
  box-decoration-break:clone;-webkit-box-decoration-break:clone}
.sae .txt .pk{outline:1.5px solid light-dark(#1a1206,#fff)}
.sae.strips .ex:has(.row-view){align-items:start}
.sae .row-view{display:flex;flex-wrap:wrap;gap:.4rem .9rem;align-items:flex-start;white-space:normal;
  font-family:"Source Sans",sans-serif;font-size:.92rem;line-height:1.5;min-width:0}
.sae .told{display:flex;gap:.65rem;flex:1 1 16rem;min-width:0}
.sae .told>i{flex:none;width:.3rem;border-radius:2px}
.sae .told p{margin:0;min-width:0;max-width:85ch;white-space:pre-wrap;overflow-wrap:anywhere}
.sae .thumb{display:inline-block;padding:3px!important;border-radius:.35rem!important;line-height:0;flex:none}
.sae .thumb img{display:block;width:auto;height:auto;min-width:64px;max-width:96px;max-height:96px;border-radius:.2rem;
  image-rendering:auto}
.sae .row-tiles{display:flex;flex-wrap:wrap;gap:.55rem;margin:.35rem 0 .2rem}
.sae .row-tiles figure{margin:0;display:flex;flex-direction:column;align-items:center;max-width:7rem;cursor:help}
.sae .row-tiles figcaption{font-size:.78rem;color:var(--muted);font-variant-numeric:tabular-nums;line-height:1.4;
  text-align:center;overflow-wrap:anywhere}
.sae .row-tiles figcaption b{color:light-dark(#31333f,#fafafa);font-weight:600}
.sae .fields{flex:1 1 100%;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.84rem;overflow-wrap:anywhere;
  min-width:0}
.sae .fields i{font-style:normal;color:var(--muted);margin-right:.35rem}
.sae .series{flex:1 1 100%;min-width:0}
.sae .series img{display:block;width:100%;height:86px}
.sae .series .names{display:flex;gap:2px;margin-top:2px;font-size:.74rem;line-height:1.35}
.sae .series .names span{min-width:0;overflow:hidden;text-overflow:ellipsis;white-space:nowrap;background:var(--soft);
  padding:0 .3rem;border-radius:2px}
.sae .series .axis{position:relative;display:flex;justify-content:space-between;color:var(--muted);font-size:.74rem;
  font-variant-numeric:tabular-nums;line-height:1.5}
.sae .series .at{position:absolute;color:var(--sae-highlight,#e8772e);font-weight:600}
.sae.legend{display:flex;flex-wrap:wrap;align-items:center;gap:.25rem .6rem;color:var(--muted);font-size:.8rem}
.sae.legend .ramp{display:inline-flex;border-radius:3px;overflow:hidden}
.sae.legend .ramp i{width:1.15rem;height:.8rem;display:block}
.sae .tok{display:inline-block;border:1px solid var(--line);border-radius:.3rem;padding:0 .38rem;
  margin:0 .25rem .25rem 0;font-size:.8rem!important;line-height:1.55;white-space:pre;max-width:100%;
  overflow:hidden;text-overflow:ellipsis;vertical-align:top}
.sae.bars{display:grid;grid-template-columns:minmax(0,8.5rem) 1fr 3rem;gap:.22rem .6rem;align-items:center}
.sae.bars .tok{margin:0;justify-self:start}
.sae.bars .b{height:.55rem;border-radius:2px;background:var(--soft)}
.sae.bars .b i{display:block;height:100%;border-radius:2px}
.sae.bars .n{text-align:right;font-variant-numeric:tabular-nums;color:var(--muted);font-size:.8rem}
.sae.bars .t{grid-column:1/-1;font-size:.82rem;color:var(--muted);margin-top:.45rem}
.sae dt{font-weight:600;font-size:.88rem;margin-top:.5rem}
.sae dd{overflow-wrap:anywhere;margin:0;font-size:.88rem;color:var(--muted);max-width:85ch}
.sae.more summary{cursor:pointer;font-size:.82rem;color:var(--muted)}
.sae.plot{margin-top:.6rem}
.sae.plot img{display:block;width:100%;height:auto}
.sae.plot .axis{display:flex;justify-content:space-between;color:var(--muted);font-size:.76rem;
  font-variant-numeric:tabular-nums;margin-top:.15rem}
.sae .note{white-space:normal;overflow-wrap:anywhere;min-width:0}
"""

# A page that sets color-scheme hands it down. These pages are dark without setting it.
_DARK = "[data-jp-theme-light='false'] .sae,.vscode-dark .sae,html[theme='dark'] .sae{color-scheme:dark}"

RULES = _RULES.replace("\n", "") + activation_css()
"""The rules, in one line."""


def notebook_style() -> str:
    """A style element for a notebook, where every output brings its own."""
    return f"<style>{RULES}{_DARK}.sae{{max-width:960px}}.sae+.sae{{margin-top:.7rem}}</style>"
