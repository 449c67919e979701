"""Exports of a finished run, as part of its event log and its report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from edufast.data import DataSet
from edufast.edge.contract import hash_of
from edufast.edge.device_rows import DeviceRow
from edufast.edge.export import ExportReport
from edufast.experiments.answers import keep_answers
from edufast.experiments.events import DeviceEvent, ExportEvent
from edufast.experiments.report import write_report
from edufast.experiments.run_folder import RunFolder
from edufast.models.weights import ModelInfo
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from edufast.utils.lock import folder_lock


def record_exports(
    folder: Path, reports: Iterable[ExportReport], info: ModelInfo, data: DataSet
) -> None:
    """Log what was exported into the run's folder, ask it about the images set aside, and write the
    report again.

    Args:
        folder: of the run.
        reports: of the exports.
        info: of the student.
        data: that it was trained on.

    Raises:
        UserError: another process is in the folder, or the event log is damaged.
    """
    run = RunFolder(folder)
    with folder_lock(folder):
        log = EventLog(run.metrics)
        for report in reports:
            log.write(ExportEvent.of(report))
        keep_answers(run, info, data)
        write_report(folder)


def record_devices(folder: Path, rows: Iterable[DeviceRow]) -> None:
    """Log how exported files of the run in ``folder`` do on devices, and write the report again.

    Raises:
        UserError: the folder holds no run, or not the file that a row is of; or another process is
            in it.
    """
    run = RunFolder(folder)
    run.read_config()
    rows = list(rows)
    for row in rows:
        file = folder / Path(row.file).name
        if not file.is_file() or hash_of(file) != row.sha256:
            raise UserError(
                f"{folder} does not hold the {row.file} that was measured on {row.machine}; "
                "expected the run that it was exported from, not exported otherwise since"
            )
    with folder_lock(folder):
        log = EventLog(run.metrics)
        for row in rows:
            log.write(DeviceEvent(**asdict(row)))
        write_report(folder)
