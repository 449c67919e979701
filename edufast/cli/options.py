"""Values of options and arguments: none is empty, which a shell makes of a variable not set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edufast.cli.common import fail


def path_of(name: str) -> Callable[[str], Path]:
    """A parser of the option or argument ``name``: an empty path would be the current folder."""

    def path(value: str) -> Path:
        return Path(_not_empty(name, value, "a file or folder"))

    return path


def text_of(name: str) -> Callable[[str], str]:
    """A parser of the option or argument ``name``: it is not taken for one that is not given."""

    def text(value: str) -> str:
        return _not_empty(name, value, "text")

    return text


def _not_empty(name: str, value: str, expected: str) -> str:
    if not value.strip():
        fail(f"{name} is {value!r}; expected {expected}", 2)
    return value
