"""Checks of numbers that users pass."""

from __future__ import annotations

import math
import operator
from typing import Any

from edufast.utils.instances import listed

MOST_SEED = 2**53  # of a training, whose grades multiply it by a thousand
# Far above what any run needs, and low enough that a slip of the finger takes no memory.
MOST_CLASSES = 1_000_000


def whole_number(name: str, value: object, least: int = 1, most: int = 2**63 - 1) -> int:
    """``value`` as an int, which NumPy's integers and tensors of one integer become.

    Args:
        name: the argument that has this value.
        least, most: bounds, inclusive.

    Raises:
        ValueError: it is no integer, or out of bounds.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"{name} is {value!r}; expected an integer") from error
    if isinstance(value, bool):  # an int to Python, and a slip to people
        raise ValueError(f"{name} is {value!r}; expected an integer")
    if not least <= number <= most:
        bounds = f"at least {least}" if number < least else f"at most {most}"
        raise ValueError(f"{name} is {_shown(value)}; expected {bounds}")
    return number


def decimal(text: str) -> int | None:
    """The whole number that decimal digits say; None: ``text`` has others, or more than any number
    that is meant, of which Python reads only some thousand."""
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _shown(value: object) -> str:
    """Python refuses to print an int of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def whole_numbers(name: str, values: Any, least: int = 1) -> tuple[int, ...]:
    """``values`` as a tuple of ints; see :func:`whole_number`.

    Raises:
        ValueError: they are no sequence, or one is no integer or too small.
    """
    found = listed(values)
    if found is None:
        raise ValueError(f"{name} is {values!r}; expected a sequence of integers")
    return tuple(whole_number(name, value, least) for value in found)


def real_numbers(name: str, values: Any, least: float = 0.0) -> tuple[float, ...]:
    """``values`` as a tuple of finite floats; see :func:`real_number`.

    Raises:
        ValueError: they are no sequence, or one is no finite number or too small.
    """
    found = listed(values)
    if found is None:
        raise ValueError(f"{name} is {values!r}; expected a sequence of numbers")
    return tuple(real_number(name, value, least) for value in found)


def real_number(name: str, value: object, least: float = 0.0) -> float:
    """``value`` as a finite float of at least ``least``, which may be -inf.

    Raises:
        ValueError: it is something else.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if isinstance(value, str | bool) or not (math.isfinite(number) and number >= least):
        bound = f" of at least {least:g}" if math.isfinite(least) else ""
        raise ValueError(f"{name} is {_shown(value)}; expected a finite number{bound}")
    return number
