"""The training loops to compare with, written as their users run them.

:class:`PlainLoop` is the loop of popular repositories (RepDistiller, mdistiller): fp32, eager,
every teacher on every sample, torchvision transforms in DataLoader workers, loss and accuracy read
from the device in every step. :class:`CarefulLoop` is the same loop as a careful user optimises it.
Both distil the same target as the project's routed one: each sample learns from the teacher that
owns its label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from edufast.bench.train.setting import (
    ALPHA,
    MOMENTUM,
    TEMPERATURE,
    WEIGHT_DECAY,
    Setting,
    fast_precision,
)
from edufast.training.settings import autocast

WORKERS = 2  # mdistiller's default


class PlainLoop:
    """(a) The plain loop, in methods that subclasses override."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.student = setting.new_student().train()
        self.teachers = setting.new_teachers()
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=setting.lr,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            nesterov=True,  # like School; the repositories use plain momentum
        )

    def batches(self) -> Iterator[Any]:
        """An endless sequence of batches (images, labels, …)."""
        loader = self.make_loader()
        while True:
            yield from loader

    def make_loader(self, **options: Any) -> DataLoader[tuple[Tensor, int]]:
        """A loader of one epoch, with more ``options`` of DataLoader."""
        data = TorchvisionViews(self.setting)
        generator = torch.Generator().manual_seed(self.setting.seed)
        return DataLoader(
            data,
            self.setting.batch_size,
            shuffle=True,
            num_workers=WORKERS,
            drop_last=True,
            generator=generator,
            **options,
        )

    def step(self, batch: Sequence[Tensor]) -> Tensor:
        """Train one step on a batch; returns the loss."""
        images, labels = batch[0].to(self.setting.device), batch[1].to(self.setting.device)
        loss, logits = self.forward(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()
        return loss.detach()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch, and the student's logits (B, C)."""
        with torch.no_grad():
            teacher_logits = self.teacher_logits(images)
        logits = self.student(images)
        return self.distil(logits, teacher_logits, labels), logits

    def teacher_logits(self, images: Tensor) -> list[Tensor]:
        """Logits (B, C_k) of every teacher."""
        return [teacher(images) for teacher in self.teachers]

    def distil(self, logits: Tensor, teacher_logits: list[Tensor], labels: Tensor) -> Tensor:
        """The loss, see :func:`plain_kd`."""
        return plain_kd(logits, teacher_logits, labels, self.setting.slices)


class CarefulLoop(PlainLoop):
    """(b) The same with bf16 autocast where the hardware has it, channels-last layout,
    torch.compile, no waiting for the device, and persistent workers."""

    def __init__(self, setting: Setting, *, compiled: bool) -> None:
        super().__init__(setting)
        self.precision = fast_precision(setting.device)
        for model in (self.student, *self.teachers):
            model.to(memory_format=torch.channels_last)
        if compiled:
            for model in (self.student, *self.teachers):
                model.compile(dynamic=False)

    def batches(self) -> Iterator[Any]:
        pin = self.setting.device.type == "cuda"
        loader = self.make_loader(persistent_workers=True, pin_memory=pin)
        while True:
            yield from loader

    def step(self, batch: Sequence[Tensor]) -> Tensor:
        device = self.setting.device
        images = batch[0].to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = batch[1].to(device, non_blocking=True)
        loss, _ = self.forward(images, labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(self.setting.device, self.precision):
            with torch.no_grad():
                teacher_logits = [t.float() for t in self.teacher_logits(images)]
            logits = self.student(images)
        return self.distil(logits.float(), teacher_logits, labels), logits


def plain_kd(
    logits: Tensor,
    teacher_logits: Sequence[Tensor],
    labels: Tensor,
    slices: Sequence[tuple[int, int]],
) -> Tensor:
    """alpha CE + (1 - alpha) T² KL, with each sample's KL divergence from its label's owner.

    Args:
        logits: (B, C), the student's.
        teacher_logits: (B, C_k) of each teacher.
        labels: (B,) int64.
        slices: (start, stop) of the classes that each teacher knows.
    """
    divergence = torch.zeros_like(labels, dtype=torch.float32)
    for teacher, (start, stop) in zip(teacher_logits, slices, strict=True):
        log_p = F.log_softmax(logits[:, start:stop] / TEMPERATURE, 1)
        p = F.softmax(teacher / TEMPERATURE, 1)
        owned = (labels >= start) & (labels < stop)
        divergence = divergence + owned * F.kl_div(log_p, p, reduction="none").sum(1)
    cross_entropy = F.cross_entropy(logits, labels)
    return ALPHA * cross_entropy + (1 - ALPHA) * TEMPERATURE**2 * divergence.mean()


class TorchvisionViews(Dataset[tuple[Tensor, int]]):
    """Augmented images, made like those of torchvision's CIFAR100: from PIL images."""

    def __init__(self, setting: Setting) -> None:
        from torchvision import transforms

        data, augment = setting.data, setting.augment
        assert isinstance(data.train.images, np.ndarray)
        self.images: NDArray[np.uint8] = data.train.images
        self.labels = data.train.labels.tolist()
        flip = [transforms.RandomHorizontalFlip()] if augment.flip else []
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(data.image_size, padding=augment.pad),
                *flip,
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]
