"""Results line by line: on the screen and on disk at once, so that a run can go on later."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Scale = TypeVar("Scale")


class Lines:
    """A file of JSON objects, one a line, each with a name.

    Args:
        path: of the file; what is in it already is not measured again. A last line that is
            incomplete, because the process was killed, is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, dict[str, Any]] = {}
        text = path.read_text("utf-8") if path.exists() else ""
        whole, _, rest = text.rpartition("\n")
        for line in whole.splitlines():
            record = json.loads(line)
            self._records[record["name"]] = record
        if rest:
            path.write_text(whole + "\n" if whole else "", "utf-8")

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._records.values())

    def measure(self, name: str, measured: Callable[[], dict[str, Any]]) -> None:
        """Add what ``measured()`` returns, unless it is there already.

        What fails is printed and not written, so that the next run tries it again.
        """
        if name in self:
            return
        try:
            numbers = measured()
        except Exception as error:  # of a compiler, a driver or a library: the others are measured
            message = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"{name}: FAILED: {type(error).__name__}: {message}", flush=True)
            return
        self._records[name] = {"name": name, **numbers}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._records[name]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in numbers.items())
        print(f"{name}: {shown}", flush=True)


def command(
    about: str,
    file: str,
    run: Callable[[Lines, Scale], None],
    scales: tuple[Scale, Scale],
    table: Callable[[Lines], str],
) -> None:
    """The command line of a measurement: ``[--dry] FOLDER``. Measures what ``file`` in the folder
    has not yet, and prints the table.

    Args:
        run: measures at a scale.
        scales: the usual one, and that of ``--dry``.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true", help="tiny problems on the CPU")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    lines = Lines(arguments.folder / file)
    run(lines, scales[arguments.dry])
    print(table(lines))


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
