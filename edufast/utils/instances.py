"""Type checks of arguments: errors are one line that names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def listed(values: Any) -> list[Any] | None:
    """``values`` as a list; None: they are text, or cannot be iterated over (a 0-d tensor, say)."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        return None
    try:
        return list(values)
    except TypeError:
        return None


def check_instance(name: str, value: object, *kinds: type) -> None:
    """Check that ``value`` is an object of one of ``kinds``.

    Args:
        name: the argument that has this value.

    Raises:
        TypeError: it is none of them.
    """
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} is {_described(value)}; expected {expected}")


def all_of(name: str, values: Any, kind: type[T], *more: type) -> tuple[T, ...]:
    """``values`` as a tuple of objects of one kind, or of one of several.

    Raises:
        TypeError: they cannot be iterated over, or one is of another kind.
    """
    found = listed(values)
    if found is None:
        kinds = " or ".join(each.__name__ for each in (kind, *more))
        raise TypeError(f"{name} is {_described(values)}; expected a sequence, each a {kinds}")
    for position, value in enumerate(found):
        check_instance(f"{name}[{position}]", value, kind, *more)
    return tuple(found)


def check_choice(name: str, value: object, choices: Sequence[str | bool]) -> None:
    """Check that ``value`` is one of ``choices``.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(value, str | bool) or value not in choices:
        expected = " or ".join(map(repr, choices))
        raise ValueError(f"{name} is {value!r}; expected {expected}")


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"of type {type(value).__name__}"
