"""The command that shows a run as it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table

from edufast.cli.common import table
from edufast.cli.options import path_of
from edufast.utils.terminal import Terminal

if TYPE_CHECKING:
    from edufast.experiments.following import RunFollower, Snapshot
    from edufast.experiments.run_log import RunLog, Trial
    from edufast.training.events import StepEvent

_EVERY = 1.0  # seconds between two looks
_HEADS = ("training", "grade", "epoch", "loss", "accuracy", "best of grade", "images/s")
_CURVE, _GAP = "curve", 3  # the last column, where there is room, and the space before it
_BARS, _LONGEST = "▁▂▃▄▅▆▇█", 24  # of a curve, and its epochs


def watch(
    run: Annotated[Path, typer.Argument(parser=path_of("run"), help="The folder of a run.")],
) -> None:
    """Follow a run: grades, loss, accuracy, and the time left.

    Reads the run's event log, from any terminal or machine that sees its folder.
    Ctrl-C ends the view, not the run. If the output is not a terminal, the
    current state is printed once.
    """
    from edufast.experiments.following import RunFollower

    follow(RunFollower(run), Terminal(highlight=False))


def follow(follower: RunFollower, console: Console) -> None:
    """Show a run until it is finished, or until Ctrl-C; once, if ``console`` is no terminal."""
    now = follower.snapshot()
    if not console.is_terminal:
        console.print(view(now, console))
        return
    with Live(view(now, console), console=console, auto_refresh=False) as live:
        try:
            while now.state != "finished":
                time.sleep(_EVERY)
                now = follower.snapshot()
                live.update(view(now, console), refresh=True)
        except KeyboardInterrupt:
            pass


def view(now: Snapshot, console: Console) -> RenderableType:
    """A table of the trainings between a line about the run and lines about what remains."""
    return Group(_title(now), *_teachers(now.log), _trainings(now, console), *_end(now))


def _title(now: Snapshot) -> str:
    run = now.log.run
    about = "" if run is None else f"{run.name}: {run.student}, {run.dataset}, on {run.device}: "
    return f"{about}{now.state}"


def _teachers(log: RunLog) -> Iterator[str]:
    from edufast.experiments.report.format import percent

    for teacher in log.teachers:
        yield (
            f"teacher {teacher.teacher}: {teacher.model}, {len(teacher.classes)} classes, "
            f"{percent(teacher.accuracy)}"
        )


def _trainings(now: Snapshot, console: Console) -> RenderableType:
    rows, curves = [], []
    for method in now.log.methods.values():
        for seed, trial in method.trials.items():
            step = now.step if _is_of(now.step, method.name, seed, trial) else None
            grades = _of_grades(now.log, method.name)
            rows.append([f"{method.name}, seed {seed}", *_cells(trial, step, grades)])
            curves.append([epoch.accuracy for epoch in trial.epochs])
    if not rows:
        return "no student was trained yet"
    plain = _table(_HEADS, rows)
    room = console.width - console.measure(plain, options=_boundless(console)).maximum - _GAP
    if room < len(_CURVE) or console.options.ascii_only:
        return plain
    longest = min(room, _LONGEST)
    drawn = (_curve(accuracies[-longest:]) for accuracies in curves)
    return _table(
        [*_HEADS, _CURVE], [[*row, curve] for row, curve in zip(rows, drawn, strict=True)]
    )


def _cells(trial: Trial, step: StepEvent | None, grades: str) -> list[str]:
    """What stands below `_HEADS`, but for the name of the training."""
    from edufast.experiments.report.format import percent

    latest = step or (trial.epochs[-1] if trial.epochs else None)
    if latest is None:
        return [""] * (len(_HEADS) - 1)
    of_grade = [e.accuracy for e in trial.epochs if e.grade == trial.epochs[-1].grade]
    return [
        f"{latest.grade}{grades}",
        str(latest.epoch + 1),
        f"{latest.loss:.3f}",
        percent(trial.epochs[-1].accuracy) if of_grade else "",
        percent(max(of_grade)) if of_grade else "",
        f"{latest.images_per_second:,.0f}",
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    filled = table(*heads, wraps=heads[:1])
    for row in rows:
        filled.add_row(*row)
    return filled


def _boundless(console: Console) -> ConsoleOptions:
    """With room for any table."""
    return console.options.update(width=10_000)


def _is_of(step: StepEvent | None, method: str, seed: int, trial: Trial) -> bool:
    """Whether it is the latest of a training that goes on."""
    return step is not None and (step.method, step.seed) == (method, seed) and trial.result is None


def _of_grades(log: RunLog, method: str) -> str:
    graded = method == "education" and log.run is not None and log.run.grades
    return f"/{len(graded)}" if graded else ""


def _curve(accuracies: Sequence[float]) -> str:
    top = max(accuracies, default=0.0) or 1.0
    heights = (round(a / top * (len(_BARS) - 1)) for a in accuracies)
    return "".join(_BARS[height] for height in heights)


def _end(now: Snapshot) -> Iterator[str]:
    from edufast.experiments.remaining import in_words
    from edufast.experiments.report.format import percent

    for export in now.log.exports:
        yield f"exported {export.path}: {percent(export.accuracy)}, {export.bytes / 1e6:.2f} MB"
    if (rest := now.remaining) is not None:
        yield f"{rest.method}: {percent(rest.done)} of the run, {in_words(rest.seconds_left)} left"
    elif now.state == "stopped":
        yield "no process is in its folder; edufast resume continues it"
