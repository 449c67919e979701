"""Latency and memory of exported files: measured here, or read back from a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from edufast.bench.tables import numbers_table
from edufast.edge.device_rows import SCRIPT, DeviceRow, measure_here, read_rows
from edufast.experiments.exporting import record_devices
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write
from edufast.utils.terminal import Terminal

_SUFFIXES = (".onnx", ".pte", ".tflite")


def main(where: Path, tables: Sequence[Path], out: Path | None) -> list[DeviceRow]:
    """Measure the files of ``where`` on this machine and print them; with ``tables``, take in what
    was measured elsewhere.

    Args:
        where: a folder with exported files, or one of them; with ``tables`` a run's folder, whose
            event log and report they go into.
        tables: files that the script's output went to.
        out: file for what was measured here, in the same format.

    Raises:
        UserError: there is nothing to measure, a table has another line, or a row is of a file that
            the run does not have.
    """
    # A place that cannot be written to is told before anything is measured.
    with nullcontext() if out is None else atomic_write(out) as temporary:
        if tables:
            rows = [row for table in tables for row in read_rows(table)]
            record_devices(where, rows)
        else:
            rows = [measure_here(file) for file in _files(where)]
        if temporary is not None:
            temporary.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows), "utf-8")
    Terminal().print(_table(rows))
    return rows


def _files(where: Path) -> list[Path]:
    if where.is_file():
        return [where]
    found = sorted(f for f in where.glob("student*") if f.suffix in _SUFFIXES)
    if not found:
        raise UserError(
            f"{where} has no student*{', no student*'.join(_SUFFIXES)}; expected an exported file, "
            f"or the folder of a run or a bundle. {SCRIPT} in a bundle measures on a device"
        )
    return found


def _table(rows: Sequence[DeviceRow]) -> Table:
    title = "One image on one thread, in milliseconds; peak memory in MB, with the runtime"
    shown = numbers_table(title, "file", "median", "95th", "load", "memory", "runtime\nalone")
    for machine in dict.fromkeys(row.machine for row in rows):
        shown.add_row(machine)
        for row in rows:
            if row.machine == machine:
                shown.add_row(
                    f"  {row.file}",
                    f"{row.median_ms:.2f}",
                    f"{row.p95_ms:.2f}",
                    f"{row.load_ms:.1f}",
                    f"{row.peak_bytes / 1e6:.1f}",
                    f"{row.runtime_bytes / 1e6:.1f}",
                )
    return shown
