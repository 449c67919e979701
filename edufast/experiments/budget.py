"""Budgets: how many samples a baseline trains on to take as much as education distillation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from edufast.experiments.events import BudgetEvent
from edufast.experiments.method import Method
from edufast.experiments.run_log import RunLog, read_run
from edufast.experiments.run_setup import Setup
from edufast.teachers.faculty import Faculty
from edufast.training.step import worth_compiling
from edufast.utils.event_log import EventLog
from edufast.utils.ranks import from_first

PACE_STEPS = 30  # optimiser steps that tell a method's speed, after as many to warm up


def within_budget(setup: Setup, method: Method, faculty: Faculty) -> Method:
    """``method`` with the training samples of its budget, which is worked out once and then read
    from the event log. Education, to which all budgets are equal, stays as it is."""
    if method is setup.methods["education"]:
        return method
    log = from_first(setup.folder.log)
    budget = log.methods[method.name].budget if method.name in log.methods else None
    if budget is None:
        budget = _budget(setup, method, faculty)
        setup.event_log.write(budget)
    return method.with_samples(budget.samples)


def _budget(setup: Setup, method: Method, faculty: Faculty) -> BudgetEvent:
    config, education = setup.config, setup.methods["education"]
    if config.equal == "samples":
        return equal_samples(method, education)
    if config.equal == "flops":
        return equal_flops(method, education)
    seconds = config.seconds or _seconds_of_education(from_first(setup.folder.log))
    return equal_time(method, seconds, faculty, device=config.device, seed=config.seeds[0])


def _seconds_of_education(log: RunLog) -> float:
    """Mean training time over its seeds, which were trained first."""
    return fmean(result.training_seconds for result in log.methods["education"].results)


def equal_samples(method: Method, education: Method) -> BudgetEvent:
    """As many training samples as ``education``."""
    return BudgetEvent(method=method.name, equal="samples", samples=sum(education.samples))


def equal_flops(method: Method, education: Method) -> BudgetEvent:
    """Samples that take ``method`` as many student FLOPs as ``education``."""
    seen = sum(education.samples)
    # As many per sample, whatever whole batches make of the number of samples.
    flops = method.training_flops() * seen // sum(method.samples)
    samples = round(seen * education.training_flops() / flops)
    return BudgetEvent(method=method.name, equal="flops", samples=samples)


def equal_time(
    method: Method,
    seconds: float,
    faculty: Faculty,
    *,
    device: str,
    seed: int,
) -> BudgetEvent:
    """Samples that ``method`` trains on in ``seconds``, by a short measurement of its pace."""
    pace = measure_pace(method, faculty, device=device, seed=seed)
    return BudgetEvent(
        method=method.name,
        equal="time",
        samples=round(seconds * pace),
        seconds=seconds,
        images_per_second=pace,
    )


def measure_pace(method: Method, faculty: Faculty, *, device: str, seed: int) -> float:
    """Images a second that ``method`` trains on, all its grades together."""
    short = _shortened(_compiled_as_planned(method, device))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        short.create_school(seed, faculty, device=device, event_log=EventLog(path)).fit()
        epochs = from_first(read_run, path).methods[method.name].trials[seed].epochs
    speeds = [epoch.images_per_second for epoch in epochs if epoch.epoch == 1]
    seconds = sum(n / speed for n, speed in zip(method.samples, speeds, strict=True))
    return sum(method.samples) / seconds


def _compiled_as_planned(method: Method, device: str) -> Method:
    """With ``compile`` as the whole training will decide, not a short one."""
    training, curriculum = method.recipe.training, method.curriculum
    if training.compile != "auto":
        return method
    student = method.create_student(seed=0).to(device)
    student.grow(fragments=curriculum.fragments[-1], classes=student.num_classes)
    steps = method.samples[-1] // training.batch_size
    compiles, _ = worth_compiling(student, training.batch_size, steps)
    training = training.model_copy(update={"compile": compiles})
    return replace(method, recipe=method.recipe.model_copy(update={"training": training}))


def _shortened(method: Method) -> Method:
    """In each grade one epoch to warm up and one to measure, however patient the training is."""
    training = method.recipe.training.model_copy(update={"patience": 0})
    samples = PACE_STEPS * training.batch_size
    grades = [replace(grade, epochs=2, samples=samples) for grade in method.curriculum.grades]
    recipe = method.recipe.model_copy(update={"training": training})
    return replace(method, recipe=recipe, curriculum=replace(method.curriculum, grades=grades))
