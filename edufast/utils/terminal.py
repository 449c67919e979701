"""Printing to a terminal, which obeys control characters: the names in what is printed, which may
come from others, do not control it."""

from __future__ import annotations

from typing import Any

from edufast.utils.errors import visible
from edufast.utils.extras import needed_for

with needed_for("the command line", "cli"):
    from rich.console import Console
    from rich.table import Table


class Terminal(Console):
    """Prints text as it is: brackets are no markup, names between colons no emoji, and control
    characters other than line breaks are shown."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_visible_line, objects), **options)


class Rows(Table):
    """A table whose cells are shown in that way, too."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_visible_line, cells), **options)


def _visible_line(part: Any) -> Any:
    return visible(part, keep="\n") if isinstance(part, str) else part
