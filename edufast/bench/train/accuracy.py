"""Accuracy of the plain loop and of School on the glyphs, after the same number of steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from statistics import mean, stdev
from typing import Any

import torch
from rich.table import Table
from torch import nn

from edufast.bench.train.ladder import LoopOptions, school
from edufast.bench.train.peers import PlainLoop
from edufast.bench.train.setting import Setting, fast_precision
from edufast.data import Augment, DataSet, Loader, load_dataset
from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.training.settings import SchoolOptions, Training

STUDENT, TEACHER = "resnet8", "resnet14"
SLICES = [(0, 20), (20, 40), (40, 60)]
BATCH_SIZE, LR, STEPS, TEACHER_EPOCHS = 64, 0.1, 600, 6
AUGMENT = Augment(pad=4, flip=False)  # a mirrored character is a different one

PLAIN, PROJECT = "(a) plain loop", "(c) School"


def compare(seeds: int, device: torch.device, report: Callable[[str], None]) -> dict[str, Any]:
    """Accuracy on the validation split after ``STEPS`` steps, for one student per seed.

    Both distil the routed target from the same slice teachers, with the same optimiser, learning
    rates and initial weights; the order of the samples and their augmentation are drawn from
    different generators.

    Args:
        seeds: number of students of each.
        device: of all models.
        report: called with what is being trained.
    """
    data = load_dataset("glyphs")
    teachers = []
    for k, slice_ in enumerate(SLICES):
        report(f"teacher {k + 1} of {len(SLICES)}")
        teachers.append(_teacher(data, range(*slice_), device))
    found: dict[str, list[float]] = {PLAIN: [], PROJECT: []}
    for seed in range(seeds):
        torch.manual_seed(seed)
        student = create_model(STUDENT, len(data.classes))
        setting = Setting(
            data, teachers, SLICES, student, BATCH_SIZE, device, AUGMENT, lr=LR, seed=seed
        )
        for name, learn in ((PLAIN, _plain), (PROJECT, _project)):
            report(f"{name}: student {seed + 1} of {seeds}")
            found[name].append(_accuracy(learn(setting), setting))
    return {"data": data.name, "steps": STEPS, "batch_size": BATCH_SIZE, "accuracy": found}


def table(result: dict[str, Any]) -> Table:
    """A line each for the plain loop and for School."""
    t = Table(
        "", "accuracy", "each", title=f"{STUDENT} on {result['data']}, {result['steps']} steps"
    )
    for name, values in result["accuracy"].items():
        t.add_row(name, spread(values), ", ".join(f"{value:.1%}" for value in values))
    return t


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, in percent."""
    deviation = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{deviation}"


def _teacher(data: DataSet, classes: range, device: torch.device) -> nn.Module:
    torch.manual_seed(classes.start)
    size = (3, data.image_size, data.image_size)
    model = Student(create_model(TEACHER, len(classes)), grades=1, input_size=size)
    training = Training(batch_size=BATCH_SIZE, lr=LR, augment=AUGMENT)
    curriculum = Curriculum.single(classes, TEACHER_EPOCHS)
    options = SchoolOptions(device)
    return School(
        model, Faculty([], device), curriculum, data, training=training, options=options
    ).fit()


def _plain(setting: Setting) -> nn.Module:
    loop = PlainLoop(setting)
    schedule = Curriculum.single(range(len(setting.data.classes)), 1)
    for step, batch in enumerate(islice(loop.batches(), STEPS)):
        rate = setting.lr * schedule.learning_rate(0, step, [STEPS])
        for group in loop.optimizer.param_groups:
            group["lr"] = rate
        loop.step(batch)
    return loop.student.eval()


def _project(setting: Setting) -> nn.Module:
    return school(
        setting, LoopOptions(fast_precision(setting.device)), samples=STEPS * BATCH_SIZE
    ).fit()


@torch.no_grad()
def _accuracy(model: nn.Module, setting: Setting) -> float:
    data = setting.data
    loader = Loader(
        data.val,
        batch_size=250,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
        device=setting.device,
    )
    right = sum(int((model(b.images).argmax(1) == b.labels).sum()) for b in loader.epoch(0))
    return right / len(data.val)
