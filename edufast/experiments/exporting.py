"""Exports of a finished run, as part of its event log and its report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edufast.edge.export import ExportReport
from edufast.experiments.events import ExportEvent
from edufast.experiments.report import write_report
from edufast.experiments.run_folder import RunFolder
from edufast.utils.event_log import EventLog
from edufast.utils.lock import folder_lock


def record_exports(folder: Path, reports: Iterable[ExportReport]) -> None:
    """Log what was exported into the run's folder, and write its report again.

    Raises:
        UserError: another process is in the folder, or the event log is damaged.
    """
    run = RunFolder(folder)
    with folder_lock(folder):
        log = EventLog(run.metrics)
        for report in reports:
            log.write(ExportEvent.of(report))
        write_report(folder)
