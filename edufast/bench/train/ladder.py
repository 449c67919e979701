"""(c) This project, one optimisation after the other, each on top of those before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from edufast.bench.train.peers import PlainLoop
from edufast.bench.train.setting import ALPHA, MOMENTUM, TEMPERATURE, WEIGHT_DECAY, Setting
from edufast.curriculum import Curriculum
from edufast.data import Batch, Loader, MixedSampler
from edufast.faculty import Faculty, Teacher
from edufast.losses import KD
from edufast.ops import kd_loss
from edufast.school import School
from edufast.student import Student
from edufast.training import Training


class WithLoader(PlainLoop):
    """The plain loop, its batches made by DALI."""

    def batches(self) -> Iterator[Any]:
        data, setting = self.setting.data, self.setting
        everything = [range(len(data.classes))]
        loader = Loader(
            data.train,
            sampler=MixedSampler(data.train.labels, everything, setting.batch_size, setting.seed),
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
    """Teachers with batch norm folded; teachers and student channels-last."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.faculty = faculty(setting)
        self.student.to(memory_format=torch.channels_last)

    def answers(self, images: Tensor) -> list[Tensor]:
        return [self.faculty.logits(k, images) for k in range(len(self.faculty))]


class WithFusedLoss(WithFaculty):
    """The loss by one fused operator."""

    def distil(self, logits: Tensor, answers: list[Tensor], labels: Tensor) -> Tensor:
        return kd_loss(
            logits,
            answers,
            labels,
            slices=self.setting.slices,
            temperature=TEMPERATURE,
            alpha=ALPHA,
            weighting="routed",
        )


class SchoolLoop:
    """A :class:`edufast.School` in its only grade."""

    def __init__(self, setting: Setting) -> None:
        self.school = school(setting)
        self.school._begin_grade(say=lambda _: None)
        self.school.student.train()

    def batches(self) -> Iterator[Batch]:
        return endless(self.school._loaders[0])

    def step(self, batch: Batch) -> Tensor:
        return self.school._step(batch, self.school._lessons[0])


def school(setting: Setting, *, samples: int | None = None) -> School:
    """A School that teaches the setting's student every class in one grade.

    Args:
        samples: to train on; None: those of an epoch.
    """
    classes = range(len(setting.data.classes))
    teachers = faculty(setting)
    return School(
        Student(setting.new_student(), grades=1, input_size=setting.input_size),
        teachers,
        Curriculum.single(
            classes, 1, teachers=range(len(teachers)), target="routed", samples=samples
        ),
        setting.data,
        algorithm=KD(temperature=TEMPERATURE, alpha=ALPHA),
        training=Training(
            batch_size=setting.batch_size,
            lr=setting.lr,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            augment=setting.augment,
            compile=False,
        ),
        device=setting.device,
        seed=setting.seed,
    )


def faculty(setting: Setting) -> Faculty:
    teachers = [
        Teacher(model, range(start, stop))
        for model, (start, stop) in zip(setting.teachers, setting.slices, strict=True)
    ]
    return Faculty(teachers, setting.device)


def endless(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1
