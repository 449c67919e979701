"""Pieces of a page. Text that comes from a run is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template


def page(title: str, *, facts: str, sections: str, notice: str = "") -> str:
    """A whole page: no scripts, no references to other files. All but the title is HTML."""
    text = files("edufast.experiments.report").joinpath("page.html").read_text("utf-8")
    return Template(text).substitute(
        title=escape(title), facts=facts, notice=notice, sections=sections
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; the first column names the row, the others align right."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def tiles(cards: Iterable[tuple[str, str, str]]) -> str:
    """Cards of a line above, a number, and a line below."""
    return (
        '<div class="tiles">'
        + "".join(
            f"<div><span>{escape(top)}</span><strong>{escape(value)}</strong>"
            f"<small>{escape(bottom)}</small></div>"
            for top, value, bottom in cards
        )
        + "</div>"
    )


def note(text: str) -> str:
    """A paragraph below a table."""
    return f'<p class="note">{escape(text)}</p>'


def folded(summary: str, body: str) -> str:
    """What is shown on a click; ``body`` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def image_data(content: bytes, kind: str) -> str:
    """An address that holds an image of the kind "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
