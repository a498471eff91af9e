"""HTML: text is escaped, and existing HTML stays as it is."""

from __future__ import annotations

from sae_core.report.html import Cell, Column, Html, element, joined, table

ATTACK = '"><img src=x onerror=alert(1)>'
ESCAPED = "&quot;&gt;&lt;img src=x onerror=alert(1)&gt;"


def test_text_is_escaped_once_in_content_and_in_attributes() -> None:
    inner = element("b", ATTACK)
    assert inner == f"<b>{ESCAPED}</b>"
    outer = element("a", inner, ATTACK, kind="x", href=ATTACK, data_go="3", title="")
    assert outer == f'<a class="x" href="{ESCAPED}" data-go="3"><b>{ESCAPED}</b>{ESCAPED}</a>'


def test_pieces_stay_html_when_they_are_joined_and_text_among_them_does_not() -> None:
    piece = element("i", "1 < 2")
    for made in (joined(piece, "<"), piece + "<"):
        assert made == "<i>1 &lt; 2</i>&lt;"
        assert type(made) is Html
    # A plain string is text, whatever it was made of.
    assert element("p", "".join([piece])) == "<p>&lt;i&gt;1 &amp;lt; 2&lt;/i&gt;</p>"


def test_a_table_has_definitions_names_of_rows_and_small_print() -> None:
    made = table(
        ["", Column("<X>", "what X is"), Column("Y", prose=True)],
        [[Cell("a", color="#123"), Cell("1", "2\n3"), Cell("<")]],
    )
    assert '<th title="what X is">&lt;X&gt;</th><th class="text">Y</th></tr></thead>' in made
    assert '<th scope="row"><span class="dot" style="background:#123"></span>a</th>' in made
    assert '<td>1<small>2</small><small>3</small></td><td class="text">&lt;</td>' in made
