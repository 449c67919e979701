"""Tables of measurements that fit a terminal of 80 columns with every word whole."""

from __future__ import annotations

from rich import box
from rich.table import Table

from edufast.utils.terminal import Rows


def numbers_table(title: str, first: str, *heads: str) -> Table:
    """An empty table whose first column has words, which wrap, and the others numbers, which do
    not; a long head has its line breaks in it."""
    empty = Rows(
        title=title,
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0,
        title_justify="left",
    )
    empty.add_column(first)
    for head in heads:
        empty.add_column(head, justify="right", no_wrap=True)
    return empty
