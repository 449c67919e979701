"""Exceptions that the command line turns into a single line."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_LISTED = 20  # largest number of names in a message
_BREAK = re.compile(r"\s*[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")  # as str.splitlines breaks lines


class _OneLine(Exception):
    """Its message is one line, whatever the names in it hold, which may come from a file."""

    def __str__(self) -> str:
        return _BREAK.sub(" ", super().__str__())


class UserError(_OneLine, ValueError):
    """Something a user typed (a path, a recipe value, an argument) cannot be used as it is."""


class TrainingError(_OneLine, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


class LostRank(Exception):
    """Another process of a distributed training has ended, and says why."""


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C); the work so far is saved."""


def one_line(error: BaseException | str) -> str:
    """The message of an error or a warning, with line breaks replaced by spaces."""
    return " ".join(str(error).split())


def visible(text: str, *, keep: str = "") -> str:
    """``text`` with the control characters in it, which a terminal obeys, as Python writes them.

    Args:
        text: may hold names that come from others.
        keep: control characters that stay.
    """
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) == "Cc" and c not in keep else c for c in text
    )


def unknown(what: str, name: object, known: Iterable[str], *, also: str = "") -> UserError:
    """The error for a name that is not in ``known``, with similar names and the known ones.

    Args:
        what: the argument or key that has this value.
        name: its value.
        known: the names it may have.
        also: alternatives to a name, in words.
    """
    names = list(dict.fromkeys(known))
    by_lower = {other.lower(): other for other in names}
    close = [by_lower[c] for c in difflib.get_close_matches(str(name).lower(), by_lower)]
    hint = f"did you mean {' or '.join(map(repr, close))}? Expected" if close else "expected"
    separator = "; " if any("," in other for other in names) else ", "
    listed = separator.join(names[:_LISTED] + ["…"] * (len(names) > _LISTED))
    choices = [f"one of {listed}"] * bool(names) + [also] * bool(also)
    return UserError(f"{what} is {name!r}; {hint} {'; or '.join(choices) or 'none'}")
