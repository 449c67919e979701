"""The teachers of a recipe: each trained once and kept as a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from edufast.data import DataSet
from edufast.experiments.events import TeacherEvent
from edufast.experiments.recipe import Recipe, TeacherSection
from edufast.models.weights import ModelInfo, load_model, save_model
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from edufast.utils.ranks import from_first


def train_teacher(
    recipe: Recipe,
    k: int,
    data: DataSet,
    path: Path,
    *,
    device: str,
    checkpoint: Path,
    event_log: EventLog,
    console: Console,
    after_epoch: Callable[[School], str] = lambda school: "",
) -> TeacherEvent:
    """Train teacher ``k`` of ``recipe`` and write it to ``path``, resumable by ``checkpoint``.

    ``after_epoch`` is called after every validation; what it returns is added to the epoch's line.

    Returns what is written to the event log.
    """
    section, classes = recipe.teachers[k], recipe.teacher_classes(data)[k]
    torch.manual_seed(recipe.seed + k)
    start = recipe.start_teacher(k, len(classes))
    if start.summary:
        console.print(f"teacher {k}: {start.summary}")
    size = (3, data.image_size, data.image_size)
    school = School(
        Student(start.model, 1, input_size=size, learned=start.learned),
        Faculty([]),
        recipe.teacher_curriculum(k, data),
        start.shown(data),
        training=recipe.create_teaching(),
        options=SchoolOptions(device, recipe.seed, checkpoint=checkpoint, name=f"teacher {k}"),
    )
    graduate, at = school.fit(lambda: after_epoch(school)), school.progress
    info = ModelInfo.describe(
        section.model, school.data, classes, at.accuracy, at.student_flops, at.seconds
    )
    if start.images is not None:
        info = replace(info, data_mean=data.mean)
    event = TeacherEvent(
        teacher=k,
        model=section.model,
        classes=list(classes),
        accuracy=at.accuracy,
        seconds=at.seconds,
        flops=at.student_flops,
        samples=at.samples,
    )

    def keep() -> None:
        event_log.write(event)
        save_model(path, graduate, info)
        console.print(
            f"teacher {k}: {section.model}, {len(classes)} classes, {at.accuracy:.1%}, "
            f"{at.seconds:.0f} s"
        )

    from_first(keep)
    return event


def load_teacher(
    path: Path, k: int, classes: Sequence[int], data: DataSet, section: TeacherSection
) -> Teacher:
    """A teacher from its file, who looks at images as the file says it learned to.

    Args:
        path: the file, of the run or of anybody.
        k: its position among the teachers.
        classes: class ids it should know.
        data: what it should have learned.
        section: of the recipe; the model and, where it names them, mean, std and image_size are
            those of the file.

    Raises:
        UserError: it knows other classes or another data set, or classes by other names; its
            images were not as ``section`` says; or, where that says nothing, it learned from other
            images of the data set (``data.seed`` or ``data.holdout`` differ): it may know those
            that validate the student.
    """
    network, info = load_model(path, model=section.model)
    if info.class_ids != tuple(classes) or info.data != data.name:
        raise UserError(
            f"{path} knows classes {_brief(info.class_ids)} of {info.data}; expected "
            f"{_brief(classes)} of {data.name}"
        )
    data.check_names(dict(zip(info.class_ids, info.classes, strict=True)), str(path))
    named = (section.mean, section.std) != (None, None)
    found, expected = (info.mean, info.std), (section.mean or data.mean, section.std or data.std)
    if info.data_mean is not None and not named:  # normalised as the weights it started from
        found, expected = (info.data_mean, info.std), (data.mean, info.std)
    if found != expected:
        source = (
            f"teachers.{k} says"
            if named
            else f"those of {data.name} as this recipe draws and holds them out have"
        )
        raise UserError(
            f"{path} was trained on images of mean {_rounded(found[0])} and deviation "
            f"{_rounded(found[1])}; {source} {_rounded(expected[0])} and {_rounded(expected[1])}"
        )
    if section.image_size not in (None, info.image_size):
        raise UserError(
            f"{path} was trained on images of {info.image_size} pixels; teachers.{k} says "
            f"{section.image_size}"
        )
    return Teacher(
        network,
        classes,
        f"{info.model} ({k})",
        info.mean,
        info.std,
        info.image_size,
        shard=section.shard,
    )


def absent_teacher(classes: Sequence[int]) -> Teacher:
    """Takes the place of a teacher in the faculty that is never asked."""
    return Teacher(nn.Identity(), classes)


def _brief(classes: Sequence[int]) -> str:
    return f"{classes[0]}..{classes[-1]} ({len(classes)})"


def _rounded(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"
