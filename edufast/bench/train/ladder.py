"""(c) This project, one optimisation after another, each on top of those before it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from edufast.bench.train.peers import PlainLoop
from edufast.bench.train.setting import ALPHA, MOMENTUM, TEMPERATURE, WEIGHT_DECAY, Setting
from edufast.data import Batch, Loader, MixedSampler, Samples
from edufast.distill import KD
from edufast.ops import kd_loss
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.training.settings import SchoolOptions, Training
from edufast.utils.choices import Precision, Schedule


class WithLoader(PlainLoop):
    """The plain loop with batches from :class:`edufast.data.Loader`."""

    def batches(self) -> Iterator[Any]:
        data, setting = self.setting.data, self.setting
        everything = [range(len(data.classes))]
        loader = Loader(
            data.train,
            sampler=MixedSampler(
                data.train.labels, everything, batch_size=setting.batch_size, seed=setting.seed
            ),
            batch_size=setting.batch_size,
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            augment=setting.augment,
            device=setting.device,
            drop_last=True,
        )
        return endless(loader)


class WithFaculty(WithLoader):
    """Also with teachers' batch norm folded, and with all models in channels-last layout."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.faculty = faculty(setting)
        self.student.to(memory_format=torch.channels_last)

    def teacher_logits(self, images: Tensor) -> list[Tensor]:
        return [self.faculty.logits(k, images) for k in range(len(self.faculty))]


class WithFusedLoss(WithFaculty):
    """Also with the fused loss."""

    def distil(self, logits: Tensor, teacher_logits: list[Tensor], labels: Tensor) -> Tensor:
        return kd_loss(
            logits,
            teacher_logits,
            labels,
            slices=self.setting.slices,
            temperature=TEMPERATURE,
            alpha=ALPHA,
            weighting="routed",
        )


@dataclass(frozen=True)
class LoopOptions:
    """Optimisations of a School's loop.

    Attributes:
        precision: of student and teachers.
        compile: whether to compile the training step and the teachers.
        cache: of the teachers' logits. None: there is none; "first": it is empty at first; "warm":
            it is full.
    """

    precision: Precision = "fp32"
    compile: bool = False
    cache: Literal["first", "warm"] | None = None


class SchoolLoop:
    """The loop of a :class:`edufast.School` with a single grade."""

    def __init__(self, setting: Setting, options: LoopOptions) -> None:
        self.folder = TemporaryDirectory(prefix="edufast-bench-")
        if options.cache == "warm":
            setting = _few_views(setting)
        # The authors' schedule has no warm-up, like the loops that this one is compared with.
        self.school = school(setting, options, Path(self.folder.name), schedule="paper")
        self.school.begin_grade()
        self.school.begin_epoch()

    def batches(self) -> Iterator[Batch]:
        return endless(self.school.loader)

    def step(self, batch: Batch) -> Tensor:
        return self.school.train_step(batch)


def school(
    setting: Setting,
    options: LoopOptions,
    folder: Path | None = None,
    *,
    samples: int | None = None,
    schedule: Schedule = "held",
) -> School:
    """A School that teaches the setting's student all classes in one grade.

    Args:
        setting: models, data and optimiser.
        options: optimisations of the loop.
        folder: of the cache.
        samples: number of samples to train on; None: one epoch.
        schedule: of the learning rate.
    """
    teachers = faculty(setting, options, folder if options.cache else None)
    curriculum = Curriculum.single(
        range(len(setting.data.classes)),
        1,
        teachers=range(len(teachers)),
        target="routed",
        samples=samples,
    )
    curriculum = replace(curriculum, schedule=schedule)
    with warnings.catch_warnings():
        # Speed does not depend on what teachers know: their weights are random.
        warnings.filterwarnings("ignore", message="teacher .* hardly more than chance")
        if options.cache == "warm":
            assert isinstance(teachers, CachedFaculty)
            teachers.prepare(setting.data, setting.augment)
            teachers.fill(curriculum.shown_to(teachers))
        return School(
            Student(setting.new_student(), grades=1, input_size=setting.input_size),
            teachers,
            curriculum,
            setting.data,
            algorithm=KD(temperature=TEMPERATURE, alpha=ALPHA),
            training=Training(
                batch_size=setting.batch_size,
                lr=setting.lr,
                momentum=MOMENTUM,
                weight_decay=WEIGHT_DECAY,
                augment=setting.augment,
                precision=options.precision,
                compile=options.compile,
            ),
            options=SchoolOptions(setting.device, setting.seed),
        )


def faculty(
    setting: Setting, options: LoopOptions = LoopOptions(), folder: Path | None = None
) -> Faculty:
    """The setting's teachers, with a cache of their logits in ``folder`` if it is given."""
    teachers = [
        Teacher(model, range(start, stop))
        for model, (start, stop) in zip(setting.teachers, setting.slices, strict=True)
    ]
    dtype = torch.bfloat16 if options.precision == "bf16" else None
    if folder is None:
        return Faculty(teachers, setting.device, dtype=dtype, compile=options.compile)
    return CachedFaculty(teachers, folder, setting.device, dtype=dtype, compile=options.compile)


def _few_views(setting: Setting) -> Setting:
    """Two batches of samples with one view each, so that a cache is quickly filled. Reading it
    takes as long as reading a large one that fits into memory."""
    train, count = setting.data.train, 2 * setting.batch_size
    few = Samples(train.images[:count], train.labels[:count])
    return replace(
        setting,
        data=replace(setting.data, train=few),
        augment=replace(setting.augment, replay=1),
    )


def endless(loader: Loader) -> Iterator[Batch]:
    """The batches of one epoch after another."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1
