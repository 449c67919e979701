"""Pieces of a page."""

from __future__ import annotations

import base64

from edufast.experiments.report.html import folded, image_data, note, page, table, tiles

EVIL = "<script>&\"'"
SAFE = "&lt;script&gt;&amp;&quot;&#x27;"


def test_text_is_escaped() -> None:
    for piece in (
        table([EVIL], [[EVIL, EVIL]]),
        tiles([(EVIL,) * 3]),
        note(EVIL),
        folded(EVIL, ""),
        page(EVIL, facts="", sections=""),
    ):
        assert EVIL not in piece and SAFE in piece


def test_a_page_is_whole() -> None:
    text = page("a", facts="<b>1</b>", sections="<section>2</section>", notice="<p>3</p>")
    assert text.startswith("<!DOCTYPE html>") and text.endswith("</html>\n") and "$" not in text
    assert "<b>1</b>" in text and "<section>2</section>" in text and "<p>3</p>" in text


def test_the_first_column_of_a_table_names_its_rows() -> None:
    assert table(["a", "b"], [["1", "2"]]).endswith(
        '<thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
        '<tbody><tr><th scope="row">1</th><td>2</td></tr></tbody></table></div>'
    )


def test_a_picture_is_part_of_the_page() -> None:
    kind, _, content = image_data(b"abc", "jpeg").partition(";base64,")
    assert kind == "data:image/jpeg" and base64.b64decode(content) == b"abc"
