"""Sizes and times as people write them: 256k, 5ms."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 1024, "m": 1024**2}


def parse_bytes(text: str) -> int:
    """The number of bytes in ``text``, whose units k and M are of 1024 and 1024^2.

    Raises:
        ValueError: it is not a size; the message says what was expected.
    """
    found = re.fullmatch(r"([0-9]{1,12})([kKmM]?)", text.strip())
    if found is None:
        raise ValueError("expected bytes, such as 131072, 128k or 1M")
    return int(found[1]) * _UNITS[found[2].lower()]


def parse_milliseconds(text: str) -> float:
    """The number of milliseconds in ``text``, with or without the unit.

    Raises:
        ValueError: likewise.
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(?:ms)?", text.strip())
    if found is None:
        raise ValueError("expected milliseconds, such as 5ms")
    return float(found[1])
