"""A student with exits that has learned what `tests.tiny` draws."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from edufast.edge.original import Original
from edufast.student.student import Student
from tests.tiny import tiny_data, tiny_model

DATA = tiny_data(per_class=40)


@cache
def student_with_exits() -> Student:
    """Three exits, of which the first is the least accurate."""
    torch.manual_seed(0)
    student = Student(tiny_model(), 3, input_size=(3, 16, 16), cuts=["0", "1"])
    for fragments in (1, 2, 3):
        student.grow(fragments=fragments, classes=6, keep_exits=True)
    images = torch.from_numpy(DATA.train.images).permute(0, 3, 1, 2) / 255
    images, labels = (images - 0.3) / 0.2, torch.from_numpy(DATA.train.labels)
    optimizer = torch.optim.SGD(student.active_parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        rows = torch.randint(len(labels), (32,), generator=generator)
        optimizer.zero_grad()
        logits = student.forward_exits(images[rows])
        losses = [nn.functional.cross_entropy(each, labels[rows]) for each in logits]
        (0.05 * losses[0] + 0.3 * losses[1] + losses[2]).backward()
        optimizer.step()
    return student.eval()


def original(*, calibrated: bool = False) -> Original:
    """Its graduate, as it is exported."""
    return Original.of(
        student_with_exits().graduate(),
        input_size=(3, 16, 16),
        mean=DATA.mean,
        std=DATA.std,
        classes=DATA.classes,
        samples=DATA.val.images,
        labels=DATA.val.labels,
        calibration=DATA.train.images if calibrated else None,
    )
