"""Trainings that have to come out the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edufast.distill import ALGORITHMS, create_algorithm
from edufast.distill.weighting import WEIGHTINGS
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.teachers.targets import TARGETS
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions, Training
from tests.tiny import TRAINING, tiny_data

DATA = tiny_data(classes=9, per_class=12)
# Of two classes, correlations and scores are 1 or -1, and their gradients rounding errors.
SLICES = [range(0, 3), range(3, 6), range(6, 9)]
ALL = range(9)
SMALL = replace(TRAINING, lr=0.002, compile=False)  # steps that do not multiply rounding errors


def model(classes: int = 9) -> nn.Module:
    """With batch norm in every block. Without what makes much of a rounding error: biases before
    the norm, whose gradients are nothing else, and kinks. Without dropout."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def teacher(classes: Sequence[int], *, shard: bool = False) -> Teacher:
    """Untrained, but sure of its answers: correlations of nearly constant ones are mostly noise."""
    network = model(len(classes))
    with torch.no_grad():
        network[-1].weight *= 8
    return Teacher(network, classes, shard=shard)


@dataclass(frozen=True)
class Case:
    """A training of a few steps."""

    algorithm: str = "kd"
    target: str = "gated"
    weighting: str | None = None
    curriculum: Callable[[], Curriculum] | None = None
    training: Training = SMALL
    shard: bool = False

    def school(self, **options: Any) -> School:
        """Before its first step."""
        torch.manual_seed(3)
        known = (*SLICES, ALL, ALL)
        faculty = Faculty([teacher(classes, shard=self.shard) for classes in known])
        curriculum = self.curriculum() if self.curriculum else graded(self.target)
        given = dict(OPTIONS.get(self.algorithm, {}))
        if self.weighting is not None:
            given["weighting"] = self.weighting
        torch.manual_seed(0)
        return School(
            Student(model(), curriculum.fragments[-1], input_size=(3, 16, 16)),
            faculty,
            curriculum,
            DATA,
            algorithm=create_algorithm(self.algorithm, **given),
            training=self.training,
            options=SchoolOptions(**options),
        )


def graded(target: str, order: str = "mixed", **changes: Any) -> Curriculum:
    """Three grades of classes and depth, with exits; the first fragment freezes in the last."""
    grades = []
    for g in range(3):
        teachers = {"full": [3, 4], "none": []}.get(target, range(g + 1))
        grades.append(Grade(1, SLICES[g], teachers, target=target, samples=36, **changes))
    grades[-1] = replace(grades[-1], epochs=2, freeze=(0.5,))
    return Curriculum(grades, order=order, exit_weight=0.3)


def changing() -> Curriculum:
    """Grades that differ in all that a grade can change."""
    grades = [
        Grade(1, SLICES[0], [0], samples=36, image_size=8),
        Grade(1, SLICES[1], [0, 1], samples=36, image_size=12, rehearsal=0.3, fragments=1),
        Grade(1, SLICES[2], [0, 1, 2], samples=36, rehearsal=0.3, fragments=2),
        Grade(1, (), [3], target="full", samples=36, fragments=3),
    ]
    return Curriculum(grades, schedule="restart", keep_rows=False, keep_state=False)


# Fewer negatives than samples; correlations of probabilities that are not all 0 or 1.
OPTIONS = {"crd": {"negatives": 10, "width": 8}, "dist": {"temperature": 4.0}}
COMMON = ("gated", "routed", "full")
CASES = {
    **{
        f"algorithm {name}, target {target}": Case(name, target)
        for name in ALGORITHMS
        for target in COMMON
    },
    **{f"target {name}": Case(target=name) for name in TARGETS if name not in COMMON},
    **{
        f"weighting {name} of two teachers, algorithm {algorithm}": Case(
            algorithm, "full", weighting=name
        )
        for name in WEIGHTINGS
        for algorithm in ("kd", "dist")
        if name != "mean"
    },
    "batches that the processes cannot share evenly": Case(training=replace(SMALL, batch_size=13)),
    "classes in slices, one after the other": Case(
        target="routed", curriculum=lambda: graded("routed", "slices")
    ),
    "rehearsal, images that grow, no momentum kept": Case(curriculum=changing),
    "AdamW, rare classes shown more often": Case(
        training=replace(SMALL, optimizer="adamw", balance=0.5)
    ),
    "mixup, algorithm kd, target full": Case("kd", "full", training=replace(SMALL, mix="mixup")),
    "cutmix, target none": Case(target="none", training=replace(SMALL, mix="cutmix")),
    "label smoothing, target gated": Case(training=replace(SMALL, label_smoothing=0.1)),
    "moving average of the student": Case(training=replace(SMALL, ema=0.9)),
    "erased rectangles, target gated": Case(training=replace(SMALL, erase=0.5)),
    "TrivialAugment, target none": Case(
        target="none", training=replace(SMALL, policy="trivialaugment")
    ),
    "early stopping": Case(
        curriculum=lambda: Curriculum.single(ALL, 5, teachers=[3], target="full", samples=36),
        training=replace(SMALL, lr=1e-9, patience=1),  # so that no rounding error makes it better
    ),
    "clipped gradients, algorithm fitnet": Case("fitnet", training=replace(SMALL, clip=0.5)),
    "sharded teachers, algorithm kd, target gated": Case(shard=True),
    # Of 3 samples and 3 owners, two processes do not have one of each.
    "sharded teachers, algorithm fitnet, target routed": Case(
        "fitnet", "routed", training=replace(SMALL, batch_size=5), shard=True
    ),
}


def outcome(case: Case, **options: Any) -> dict[str, Tensor]:
    """What ``case`` trains: weights and their average, adapters, memories, statistics; its accuracy
    and costs."""
    school = case.school(**options)
    school.fit()
    found = {f"student.{k}": v for k, v in school.student.state_dict().items()}
    found |= {f"evaluated.{k}": v for k, v in school.evaluated.state_dict().items()}
    found |= {f"algorithm.{k}": v for k, v in school.algorithm.state_dict().items()}
    at = school.progress
    found["accuracy"] = torch.tensor(at.accuracy)
    found["costs"] = torch.tensor([at.samples, at.student_flops, at.teacher_flops])
    return {k: v.clone() for k, v in found.items()}


def outcomes(names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Those of the cases ``names``."""
    return {name: outcome(CASES[name]) for name in names}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest of any tensor, relative to the tensor's largest value."""
    assert one.keys() == other.keys()
    worst = 0.0
    for key, a in one.items():
        b = other[key]
        assert a.shape == b.shape, key
        largest = a.double().abs().max().clamp_min(1e-12)
        worst = max(worst, float((a.double() - b.double()).abs().max() / largest))
    return worst
