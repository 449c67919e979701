"""Sweeps: variants of a recipe with several seeds each, on shared teachers, in one summary."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from edufast.experiments.report import write_figures, write_summary
from edufast.experiments.report.summary import SweepSummary
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.sweep_config import SweepConfig
from edufast.experiments.sweep_tasks import plan_tasks, sweep_runs
from edufast.experiments.workers import run_tasks
from edufast.utils.files import remove_partial_files
from edufast.utils.lock import InUse, folder_lock
from edufast.utils.progress import message_console


def run_sweep(
    config: SweepConfig, path: Path, jobs: int = 1, console: Console | None = None
) -> SweepSummary:
    """Train what is not finished of a sweep, and summarise it.

    The folder gets sweep.yaml, teachers/, runs/<variant>-<seed>/, and the summary: sweep.json,
    sweep.md, sweep.png and .svg, sweep-flops.png and .svg, metrics.jsonl of all runs together,
    report.html and plots/. The same folder takes further variants and seeds; what is finished
    stays.

    Args:
        config: what to do.
        path: the folder.
        jobs: processes at a time.
        console: told what happens; None: standard error.

    Raises:
        Interrupted: after Ctrl-C; call again to go on.
        UserError: a variant does not fit its data, the folder holds other runs of this name, or
            another process is in it.
        UserError, TrainingError: a teacher's training failed; the message names it. That of a
            student which diverges ends there and is counted in the summary.
    """
    console = console or message_console()
    config = config.continuing(path)
    tasks = plan_tasks(config, path)
    for task in tasks.students:
        RunFolder(task.product).holds(task.config())
    with folder_lock(path):
        remove_partial_files(path)
        config = config.continuing(path)  # another process may have been in it meanwhile
        config.write(path)
        try:
            run_tasks(tasks.in_order(), jobs, path / "logs", console)
        finally:
            teachers = sorted((path / "teachers").glob("*.jsonl"))
            summary = write_summary(path, config, sweep_runs(config, path), teachers)
        write_figures(path, summary)  # not where somebody stopped it, and waits
    return summary


def join_sweep(path: Path, jobs: int = 1, console: Console | None = None) -> SweepSummary | None:
    """Help a sweep that another process has begun, perhaps on another machine.

    Every training is done by one of them. What one leaves when it is stopped, another goes on with.

    Args:
        path: the folder, which has this path on all machines, on a file system with locks.
        jobs: processes at a time, of this one.
        console: told what happens; None: standard error.

    Returns:
        None: the process that began the sweep is still there, and summarises it.

    Raises:
        Interrupted, UserError, TrainingError: as :func:`run_sweep`.
    """
    console = console or message_console()
    config = SweepConfig.read(path)
    logs = path / "logs" / f"{socket.gethostname()}-{os.getpid()}"
    run_tasks(plan_tasks(config, path).in_order(), jobs, logs, console)
    with suppress(InUse):
        return run_sweep(config, path, console=console)
    return None
