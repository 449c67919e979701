"""Exports of a finished run, as part of its event log and its report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edufast.data import DataSet
from edufast.edge.export import ExportReport
from edufast.experiments.answers import keep_answers
from edufast.experiments.events import ExportEvent
from edufast.experiments.report import write_report
from edufast.experiments.run_folder import RunFolder
from edufast.models.weights import ModelInfo
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
