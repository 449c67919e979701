"""Several runs: how far each has got, and how two of them differ."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from edufast.experiments import RUN_FILE
from edufast.experiments.events import ResultEvent
from edufast.experiments.report.format import percent, seconds, si, spread
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.experiments.run_log import RunLog, Trial
from edufast.experiments.schema import changed
from edufast.utils.errors import UserError
from edufast.utils.lock import is_locked

State = Literal["running", "finished", "stopped", "damaged"]


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Attributes:
        path: of its folder.
        state: "running": a process is in its folder; "finished": it has all results; "stopped":
            neither; "damaged": it cannot be read.
        grade: of the training that is under way or was the last, counted from 1; None: there was
            none yet.
        grades: of that training.
        accuracy: mean of the first method's results or, before there are any, of the last epoch.
        seconds: that finished trainings took, teachers included.
        note: why it cannot be read.
    """

    path: Path
    state: State
    grade: int | None = None
    grades: int | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    note: str = ""


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs at or below ``folder``, in the order of their names.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; expected one that holds runs")
    found = []
    for path, below, files in os.walk(folder):
        if RUN_FILE in files:
            found.append(Path(path))
            below.clear()
        below.sort()
    return found


def run_state(path: Path) -> RunState:
    """How far the run in ``path`` is."""
    folder = RunFolder(path)
    try:
        config, log = folder.read_config(), folder.log()
    except UserError as error:
        return RunState(path, "damaged", note=str(error))
    except OSError as error:  # such as a file of another user's; the other runs are listed
        return RunState(path, "damaged", note=f"{error.filename}: {error.strerror}")
    trial = _current(log)
    grade = trial.epochs[-1].grade if trial is not None and trial.epochs else None
    finished = is_finished(folder, config, log)
    return RunState(
        path,
        "running" if is_locked(path) else "finished" if finished else "stopped",
        grade,
        _grades(log, trial),
        _accuracy(log, trial),
        sum(result.seconds for result in log.results.values())
        + sum(teacher.seconds for teacher in log.teachers),
    )


def is_finished(folder: RunFolder, config: RunConfig, log: RunLog) -> bool:
    """Whether there is a result of every method and seed and, where it is to be, the file of the
    finished student; without methods, whether all teachers were trained."""
    if not config.methods:
        return len(log.teachers) >= sum(t.finished is None for t in config.recipe.teachers)
    wanted = {(method, seed) for method in config.methods for seed in config.seeds}
    if not wanted <= log.results.keys():
        return False
    return not config.exports_student or (bool(log.exports) and not folder.best.exists())


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        keys: of config and recipe that differ, with the values of both.
        results: what is compared, such as "education: accuracy", with that of both in words; None
            where one has none.
    """

    keys: list[tuple[str, Any, Any]]
    results: list[tuple[str, str | None, str | None]]


def compare_runs(one: Path, other: Path) -> Comparison:
    """How the settings and results of two runs differ.

    Raises:
        UserError: a folder holds no run, or one that cannot be read.
    """
    folders = RunFolder(one), RunFolder(other)
    first, second = (folder.read_config() for folder in folders)
    keys = [
        (key.removeprefix("recipe."), old, new)
        for key, old, new in changed(first, second)
        if key.partition(".")[0] != "decisions"  # which are in the recipe
    ]
    of_one, of_other = (_result_texts(folder.log()) for folder in folders)
    names = dict.fromkeys([*of_one, *of_other])
    return Comparison(keys, [(name, of_one.get(name), of_other.get(name)) for name in names])


def _result_texts(log: RunLog) -> dict[str, str]:
    """The results of all methods in words, and the size and speed of the exported files."""
    texts: dict[str, str] = {}
    for method in log.methods.values():
        if found := method.results:
            texts |= {f"{method.name}: {what}": text for what, text in _of_seeds(found).items()}
    for export in log.exports:
        name = Path(export.path).name
        texts[f"{name}: accuracy"] = percent(export.accuracy)
        texts[f"{name}: size"] = f"{export.bytes / 1e6:.2f} MB"
        texts[f"{name}: an image"] = f"{export.latency_ms:.2f} ms"
    return texts


def _of_seeds(found: list[ResultEvent]) -> dict[str, str]:
    return {
        "seeds": str(len(found)),
        "accuracy": spread([result.accuracy for result in found]),
        "best accuracy": spread([result.best_accuracy for result in found]),
        "samples": f"{fmean(result.samples for result in found):,.0f}",
        "student FLOPs": si(fmean(result.student_flops for result in found), "FLOP"),
        "time": seconds(fmean(result.seconds for result in found)),
    }


def _current(log: RunLog) -> Trial | None:
    """The training that is under way, or the last one."""
    trials = [trial for method in log.methods.values() for trial in method.trials.values()]
    unfinished = [trial for trial in trials if trial.result is None]
    found = unfinished or trials
    return found[-1] if found else None


def _grades(log: RunLog, trial: Trial | None) -> int | None:
    education = log.methods.get("education")
    graded = education is not None and trial in education.trials.values()
    if trial is None or not trial.epochs:
        return None
    return len(log.run.grades) if graded and log.run and log.run.grades else trial.epochs[-1].grade


def _accuracy(log: RunLog, trial: Trial | None) -> float | None:
    for method in log.methods.values():
        if found := method.results:
            return fmean(result.accuracy for result in found)
    return trial.epochs[-1].accuracy if trial is not None and trial.epochs else None
