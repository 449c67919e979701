"""Runs: a recipe carried out in a folder, from the teachers to the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from edufast.edge.registry import find_format
from edufast.experiments.after_epoch import AfterEpoch
from edufast.experiments.answers import keep_answers
from edufast.experiments.best_so_far import BestSoFar
from edufast.experiments.budget import within_budget
from edufast.experiments.events import ResultEvent
from edufast.experiments.plan import planned
from edufast.experiments.report import write_report
from edufast.experiments.report.advice import choose
from edufast.experiments.run_folder import RunConfig
from edufast.experiments.run_setup import Setup
from edufast.experiments.student_training import export_student, tell_export, train_student
from edufast.experiments.teacher_training import absent_teacher, load_teacher, train_teacher
from edufast.models.weights import load_model
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.utils import ranks
from edufast.utils.errors import Interrupted, LostRank
from edufast.utils.lock import InUse

Results = dict[str, dict[int, ResultEvent]]  # by method and seed
_NOTHING = AfterEpoch()


def run(
    config: RunConfig,
    path: Path,
    console: Console | None = None,
    trackers: Sequence[str] = (),
) -> Results:
    """Teach, distil, export, report; go on where an earlier attempt in the same folder stopped.

    ``trackers`` hear of every event, see :class:`edufast.experiments.run_setup.Setup`.

    Raises:
        UserError: the folder holds a run of another config or is in use by another process, the
            recipe does not fit its data, or a package is missing that the export will need.
        Interrupted: after Ctrl-C; call again to go on.
        LostRank: another process of the run has ended.
        TrainingError, ExportError: a step failed; the message says why.
    """
    if config.exports_student:
        find_format("onnx")  # a package that the last step needs is missed before the first
    setup = Setup(config, path, console, trackers=trackers)
    with setup.opened():
        try:
            results = _carry_out(setup)
        # Whoever stopped it does not want to wait for the report; or the folder is not ours.
        except (Interrupted, LostRank, InUse):
            raise
        except Exception:
            _report(setup)
            raise
        _report(setup)
    return results


def _carry_out(setup: Setup) -> Results:
    hooks = AfterEpoch()
    if ranks.is_first():
        hooks = AfterEpoch(
            BestSoFar(setup) if setup.config.exports_student else None, planned(setup)
        )
    try:
        results = train(setup, teach(setup, hooks), hooks)
    except Interrupted:
        ranks.from_first(_export_best, setup, hooks)
        raise
    ranks.from_first(_export_last, setup, hooks)
    return results


def _export_best(setup: Setup, hooks: AfterEpoch) -> None:
    if hooks.best is not None and (exported := hooks.best.export()):
        setup.console.print(exported)


def _export_last(setup: Setup, hooks: AfterEpoch) -> None:
    if hooks.best is not None:
        loaded = load_model(setup.folder.student, model=setup.recipe.student.model)
        tell_export(setup, export_student(setup, *loaded))
        hooks.best.end()
        keep_answers(setup.folder, loaded[1], setup.data)
        _tell_choice(setup)


def _tell_choice(setup: Setup) -> None:
    log = setup.folder.log()
    fitting = log.run.fitting if log.run else None
    if len(log.exports) > 1 and (choice := choose(log.exports, fitting)) is not None:
        setup.console.print(f"to use: {setup.folder.path / choice.file.path}. {choice.reason}")


def _report(setup: Setup) -> None:
    if ranks.is_first():
        setup.console.print(f"report: {write_report(setup.folder.path)}")


def teach(setup: Setup, hooks: AfterEpoch = _NOTHING) -> Faculty:
    """Load the teachers that the methods learn from, and train those without weights yet.

    Without any method: all of them, and their logits are stored where the config has a cache.
    """
    config = setup.config
    teachers = []
    for k, classes in enumerate(setup.recipe.teacher_classes(setup.data)):
        if k not in setup.asked:
            teachers.append(absent_teacher(classes))
            continue
        path = setup.teacher_file(k)
        if not ranks.from_first(path.exists):
            train_teacher(
                setup.recipe,
                k,
                setup.data,
                path,
                device=config.device,
                checkpoint=setup.folder.checkpoint(f"teacher{k}"),
                event_log=setup.event_log,
                console=setup.console,
                # With minutes given, a teacher may be the best so far; else only the student is.
                after_epoch=hooks.hook(
                    setup.recipe.teachers[k].model if setup.recipe.minutes else None
                ),
            )
        teachers.append(load_teacher(path, k, classes, setup.data, setup.recipe.teachers[k]))
    dtype = torch.bfloat16 if setup.recipe.training.precision == "bf16" else None
    if config.cache is None:
        return Faculty(teachers, config.device, dtype=dtype)
    faculty = CachedFaculty(teachers, config.cache, config.device, dtype=dtype)
    if not config.methods:
        _fill(setup, faculty)
    return faculty


def train(setup: Setup, faculty: Faculty, hooks: AfterEpoch = _NOTHING) -> Results:
    """Train what is not finished: every method with every seed."""
    config, finished = setup.config, ranks.from_first(setup.folder.log).results
    names = config.methods
    if config.equal == "time":  # the others need to know how long education takes
        names = tuple(sorted(names, key=lambda name: name != "education"))
    for name in names:
        seeds = [seed for seed in config.seeds if (name, seed) not in finished]
        if not seeds:
            continue
        method = within_budget(setup, setup.methods[name], faculty)
        for seed in seeds:
            kept = (name, seed) == ("education", config.seeds[0])
            after_epoch = hooks.hook(setup.recipe.student.model if kept else None)
            finished[name, seed] = train_student(setup, method, seed, faculty, after_epoch)
    return {name: {seed: finished[name, seed] for seed in config.seeds} for name in config.methods}


def _fill(setup: Setup, faculty: CachedFaculty) -> None:
    """Store the logits of all views that the recipe's student will be shown."""
    start = setup.recipe.start_student(len(setup.data.classes))
    faculty.prepare(start.shown(setup.data), setup.recipe.create_training().augment)
    setup.console.print(
        f"storing the teachers' logits for {faculty.store.views} views of each of "
        f"{len(setup.data.train):,} samples"
    )
    count = faculty.fill(setup.methods["education"].curriculum.shown_to(faculty))
    setup.console.print(f"{faculty.folder}: logits of {count:,} views stored")
