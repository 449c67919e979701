"""Results of a benchmark on disk: written whole, and read back as seconds by contest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write
from edufast.utils.json_text import parse_json

# Of a machine's description: the load is another every time, and what is to be compared is EduFast.
VARIES = {"load"}
OURS = {"edufast", "commit"}


class Measurement(NamedTuple):
    """Seconds of one implementation in a contest, a problem that all of them solved in turns."""

    contest: str
    name: str
    median: float
    low: float  # first quartile, or the fastest of few rounds
    high: float


def write(path: Path, machine: dict[str, Any], quick: bool, results: list[dict[str, Any]]) -> None:
    """Write a file of results; ``path`` has its old content or all of the new."""
    content = {"machine": machine, "quick": quick, "results": results}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), "utf-8")


def read(path: Path, title: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """What :func:`write` wrote.

    Args:
        path: of the file.
        title: names a contest of its benchmark.

    Raises:
        UserError: it is no such file; the message names it.
    """
    try:
        content = parse_json(path.read_text("utf-8"))
        content["machine"]["device"]
        for result in content["results"]:
            if not (title(result) and result["results"]):
                raise ValueError("a contest without results")
            for numbers in result["results"].values():
                if not all(0 < each < math.inf for each in _seconds(numbers)):
                    raise ValueError("a time that is none")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise not_a_result(path) from error
    return dict(content)


def not_a_result(path: Path) -> UserError:
    """The error for a file that holds something else, or is damaged."""
    return UserError(f"{path} is not a result of edufast bench")


def differences(
    one: dict[str, Any], other: dict[str, Any], ignored: set[str] = VARIES
) -> list[str]:
    """What of the descriptions of two machines differs."""
    keys = sorted((one.keys() | other.keys()) - ignored)
    return [
        f"{key} {one.get(key)!r} and {other.get(key)!r}"
        for key in keys
        if one.get(key) != other.get(key)
    ]


def measurements(
    results: Sequence[dict[str, Any]], title: Callable[[dict[str, Any]], str]
) -> list[Measurement]:
    """Of all contests; ``title`` names one."""
    return [
        Measurement(title(result), name, *_seconds(numbers))
        for result in results
        for name, numbers in result["results"].items()
    ]


def _seconds(numbers: dict[str, Any]) -> tuple[float, float, float]:
    if "median" in numbers:
        return numbers["median"], numbers["low"], numbers["high"]
    speeds = numbers["speeds"]  # images per second, of a few rounds
    return 1 / numbers["images_per_second"], 1 / max(speeds), 1 / min(speeds)


def as_text(seconds: float) -> str:
    """Three digits and a unit from microseconds to seconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def duration(seconds: float) -> str:
    """In milliseconds, seconds, minutes or hours."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
