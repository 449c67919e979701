"""Tables of how exported files do on machines, which a script without EduFast writes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from edufast.utils.errors import UserError, one_line
from edufast.utils.extras import needed_for

SCRIPT = "bench.py"  # its name in bundles


@dataclass(frozen=True)
class DeviceRow:
    """How a file does on a machine: a line that the script prints.

    Attributes:
        file, sha256: the exported file.
        machine: as its operating system calls it.
        runtime: that ran it, with its version.
        load_ms: from the file to its first answer, in a fresh process.
        median_ms, p95_ms: of one image on one thread.
        peak_bytes: the most memory that the process had, the runtime and Python included.
        runtime_bytes: likewise, before the file was loaded.
    """

    file: str
    sha256: str
    machine: str
    runtime: str
    load_ms: float
    median_ms: float
    p95_ms: float
    peak_bytes: int
    runtime_bytes: int

    @classmethod
    def parse(cls, line: str) -> DeviceRow:
        """
        Raises:
            ValueError: the script does not print such a line.
        """
        with needed_for("measuring exported files", "export"):
            from pydantic import TypeAdapter
        row: DeviceRow = TypeAdapter(cls).validate_json(line, strict=True)
        return row


def read_rows(table: Path) -> list[DeviceRow]:
    """The rows of a file that the script's output went to.

    Raises:
        UserError: it is missing or empty, or has another line.
    """
    try:
        lines = table.read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{table} cannot be read: {one_line(error)}") from error
    if not lines:
        raise UserError(f"{table} is empty; expected the output of {SCRIPT}")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(DeviceRow.parse(line))
        except ValueError as error:
            raise UserError(f"{table}, line {number} was not printed by {SCRIPT}") from error
    return rows


def measure_here(file: Path) -> DeviceRow:
    """Run the script on this machine.

    Raises:
        UserError: it fails; the message is its last line, or the signal that ended it.
    """
    with as_file(files("edufast.edge") / "device.py") as script:
        # onnxruntime takes names in UTF-8 only, whatever the locale.
        command = [sys.executable, "-X", "utf8", str(script), str(file)]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix(f"{file}: ")
        if done.returncode < 0:
            last = f"its process was ended by signal {-done.returncode}"
        raise UserError(f"{file} cannot be measured: {last}")
    return DeviceRow.parse(done.stdout)


def write_device_script(folder: Path) -> None:
    """Put the script into ``folder``."""
    content = files("edufast.edge").joinpath("device.py").read_bytes()
    (folder / SCRIPT).write_bytes(content)
