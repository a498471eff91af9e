"""The page's stylesheet and colours: light and dark by the reader's setting, and black on white on paper."""

from __future__ import annotations

from sae_core.analysis.shared.names_in_tables import colour_of

OTHERS = ("#b8609a", "#7e8c2e", "#a8483f", "#7a6fd0")

STYLE = """
:root{color-scheme:light dark;--back:light-dark(#fff,#14171b);--text:light-dark(#1b2026,#e6e9ec);
--muted:light-dark(#5b6570,#a2abb4);--line:light-dark(#dfe3e7,#31373e);--soft:light-dark(#f5f7f8,#1c2126);
--accent:light-dark(#b4511f,#f0935f)}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.6rem 1.6rem 4rem}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.015em;margin:0;overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:3rem 0 .3rem;padding-top:1.2rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.6rem 0 .3rem}
p{margin:.4rem 0;max-width:75ch}
p.sub,p.note,figcaption,.muted{color:var(--muted)}
p.note,figcaption{font-size:.86rem}
.headline{font-size:1.22rem;line-height:1.45;margin:1.3rem 0 1.5rem;padding:1rem 1.2rem;background:var(--soft);
border-left:4px solid var(--accent);border-radius:.3rem;max-width:none}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem 2.2rem}
.answers section{min-width:0}
.answers h3{margin:.5rem 0 .2rem;font-size:1.02rem}
.answers ul{margin:.2rem 0;padding-left:1.15rem}
.answers li{margin:.3rem 0;overflow-wrap:anywhere}
nav{margin:1.8rem 0 0;font-size:.9rem;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
a{color:var(--accent)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));gap:1.4rem 2rem;margin:1rem 0}
figure{margin:0;min-width:0;break-inside:avoid}
figure h3{margin:0 0 .35rem}
figcaption{margin-top:.3rem}
svg{display:block;width:100%;height:auto;max-width:640px}
svg text{font-size:12.5px;fill:var(--muted);font-family:inherit}
svg text.name{fill:var(--text)}
svg .grid{stroke:var(--line);stroke-width:1}
svg .limit{stroke:var(--muted);stroke-width:1;stroke-dasharray:4 4}
.key{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.82rem;color:var(--muted);margin:.2rem 0 0}
.key span{display:inline-flex;align-items:center;gap:.4rem}
.key i{width:1.3rem;height:0;display:inline-block}
.key i.dot{width:.62rem;height:.62rem;margin:0}
.key i.hollow{width:.6rem;height:.6rem;border:1.6px solid var(--muted);border-radius:50%}
.scroll{overflow-x:auto;margin:.7rem 0}
table{border-collapse:collapse;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.42rem .7rem .42rem 0;border-bottom:1px solid var(--line);white-space:nowrap;
vertical-align:top}
th{font-weight:600}
thead th{color:var(--muted);font-weight:500;font-size:.82rem;vertical-align:bottom}
th:first-child,th.text,td.text{text-align:left}
td small,th small{display:block;font-weight:400;color:var(--muted);font-size:.78rem}
tr.head th{color:var(--muted);font-weight:500;font-size:.82rem;padding-top:1rem}
.dot{display:inline-block;width:.62rem;height:.62rem;border-radius:50%;margin-right:.45rem}
th.text,td.text{white-space:normal;overflow-wrap:anywhere}
dl{margin:.6rem 0;font-size:.92rem}
dt{font-weight:600;margin-top:.6rem}
dd{margin:.1rem 0 0;color:var(--muted);max-width:85ch}
details{margin:.8rem 0}
summary{cursor:pointer;font-weight:600;font-size:.95rem}
pre{background:var(--soft);padding:.8rem 1rem;border-radius:.3rem;overflow:auto;font-size:.8rem;line-height:1.45}
@media (max-width:640px){main{padding:1.6rem 1rem 3rem}h1{font-size:1.5rem}.headline{font-size:1.08rem}
h2{margin-top:2.2rem}}
@media print{:root{color-scheme:light}main{max-width:none;padding:0}nav{display:none}body{font-size:10.5pt}
h2{break-after:avoid}tr,figure,.answers section{break-inside:avoid}.scroll{overflow:visible}
.first{break-after:page}details::details-content{content-visibility:visible;height:auto}}
"""


def color_of(name: str, number: int = 0) -> str:
    """The colour of a method; methods with names of their own take others by their number."""
    return colour_of(name) or OTHERS[number % len(OTHERS)]
