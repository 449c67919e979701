"""Values of recipes that several sections have, such as class ids, image sizes, epochs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from edufast.data import DataSet
from edufast.data.samples import LARGEST_IMAGE
from edufast.experiments.schema import quoted
from edufast.utils.errors import UserError
from edufast.utils.numbers import MOST_CLASSES, MOST_SEED
from edufast.utils.units import parse_bytes, parse_milliseconds

# `2/3`: the second of three equal shares of the classes.
SHARE = r"[1-9][0-9]{0,5}/[1-9][0-9]{0,5}"


def _class_ids(value: object) -> object:
    """`0-19` or `0-4,7,9-12` as written in YAML, to a list of integers."""
    if not isinstance(value, str) or value == "all" or re.fullmatch(SHARE, value):
        return value
    ids: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,18})\s*(?:-\s*([0-9]{1,18})\s*)?", part)
        if not match:
            raise ValueError(
                f"{quoted(part.strip())} is not a class range; expected for instance 0-19"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < MOST_CLASSES or len(ids) + last - first >= MOST_CLASSES:
            raise ValueError(
                f"{part.strip()!r}: expected ascending ids below {MOST_CLASSES:,}, as 0-19"
            )
        ids += range(first, last + 1)
    return ids


def _each_once(ids: list[int]) -> list[int]:
    seen: set[int] = set()
    for c in ids:
        if c in seen:
            raise ValueError(f"expected each class once, class {c} is named twice")
        seen.add(c)
    return ids


ClassIds = Annotated[
    list[Annotated[int, Field(ge=0, lt=MOST_CLASSES)]],
    BeforeValidator(_class_ids),
    AfterValidator(_each_once),
]
ImageSize = Annotated[int, Field(gt=0, le=LARGEST_IMAGE)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Epochs = Annotated[int, Field(gt=0, le=100_000)]
BatchSize = Annotated[int, Field(gt=0, le=1_000_000)]
SampleCount = Annotated[int, Field(gt=0, le=10_000_000_000)]  # an epoch's order is in memory


def _sized(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _timed(value: object) -> object:
    return parse_milliseconds(value) if isinstance(value, str) else value


Bytes = Annotated[int, Field(gt=0), BeforeValidator(_sized)]  # `256k` as written in YAML
Milliseconds = Annotated[float, Field(gt=0), BeforeValidator(_timed)]  # `5ms`


def check_class_ids(key: str, classes: Sequence[int], data: DataSet) -> None:
    """Check that ``data`` has these classes.

    Raises:
        UserError: there is one that it does not have; the message names ``key``.
    """
    for c in classes:
        if not 0 <= c < len(data.classes):
            raise UserError(
                f"{key}: class {c}; expected 0 to {len(data.classes) - 1}, the classes of "
                f"{data.name}"
            )
