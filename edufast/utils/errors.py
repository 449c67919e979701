"""Exceptions that the command line turns into a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 20  # most names that a message lists


class UserError(ValueError):
    """Something a user typed (a path, a recipe value, an argument) cannot be used."""


class TrainingError(RuntimeError):
    """Training cannot continue, for instance because the loss is not finite."""


class Interrupted(Exception):
    """The user asked to stop (Ctrl-C); the work done so far has been saved."""


def unknown(what: str, name: object, known: Iterable[str], *, also: str = "") -> UserError:
    """The error for a name that is not in ``known``: it suggests close ones and lists all.

    Args:
        what: the argument, or the recipe's key.
        name: the value found.
        known: the values accepted.
        also: what else is accepted, in words.
    """
    names = list(dict.fromkeys(known))
    by_lower = {other.lower(): other for other in names}
    close = [by_lower[c] for c in difflib.get_close_matches(str(name).lower(), by_lower)]
    hint = f"did you mean {' or '.join(map(repr, close))}? Expected" if close else "expected"
    listed = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
    choices = [f"one of {listed}"] * bool(names) + [also] * bool(also)
    return UserError(f"{what} is {name!r}; {hint} {'; or '.join(choices)}")
