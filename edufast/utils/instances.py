"""Arguments of a wrong kind, told by name in one line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


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


def all_of(name: str, values: Any, kind: type[T]) -> tuple[T, ...]:
    """``values`` as a tuple of objects of one kind.

    Raises:
        TypeError: they cannot be gone through, or one is of another kind.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} is {_described(values)}; expected a sequence, each a {kind.__name__}"
        )
    found = tuple(values)
    for position, value in enumerate(found):
        check_instance(f"{name}[{position}]", value, kind)
    return found


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"of type {type(value).__name__}"
