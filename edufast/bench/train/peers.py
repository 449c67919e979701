"""The training loops to beat, written as their users run them.

:class:`PlainLoop` is the loop of the popular repositories (RepDistiller, mdistiller): fp32, eager,
every teacher on every sample, torchvision's views made by DataLoader workers, loss and accuracy
read every step. :class:`CarefulLoop` is what a careful user makes of it. Both learn what the
project's routed target teaches: each sample from the teacher that owns its label.
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
    """(a) The plain loop. Every piece is a method, for others to override."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.student = setting.new_student().train()
        self.teachers = setting.new_teachers()
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=setting.lr,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            nesterov=True,  # as School has it; the repositories go without
        )

    def batches(self) -> Iterator[Any]:
        """Batches without end: (images, labels, …)."""
        loader = self.make_loader()
        while True:
            yield from loader

    def make_loader(self, **options: Any) -> DataLoader[tuple[Tensor, int]]:
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
        """Train one step on a batch; returns its loss."""
        images, labels = batch[0].to(self.setting.device), batch[1].to(self.setting.device)
        loss, logits = self.forward(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()
        (logits.argmax(1) == labels).float().mean().item()
        return loss.detach()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and the student's logits of a batch."""
        with torch.no_grad():
            answers = self.answers(images)
        logits = self.student(images)
        return self.distil(logits, answers, labels), logits

    def answers(self, images: Tensor) -> list[Tensor]:
        """What every teacher says about every image: (B, C_k) each."""
        return [teacher(images) for teacher in self.teachers]

    def distil(self, logits: Tensor, answers: list[Tensor], labels: Tensor) -> Tensor:
        return plain_kd(logits, answers, labels, self.setting.slices)


class CarefulLoop(PlainLoop):
    """(b) The same with bf16 autocast where the machine has it, channels-last, torch.compile,
    nothing that waits for the device, and workers that stay."""

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
                answers = self.answers(images)
            logits = self.student(images)
        return self.distil(logits.float(), [a.float() for a in answers], labels), logits


def plain_kd(
    logits: Tensor, answers: Sequence[Tensor], labels: Tensor, slices: Sequence[tuple[int, int]]
) -> Tensor:
    """alpha CE + (1 - alpha) T² KL of each sample to the teacher that owns its label.

    Args:
        logits: (B, C), the student's.
        answers: (B, C_k) a teacher, over its slice (start, stop) of the classes.
        labels: (B,) int64.
    """
    divergence = torch.zeros_like(labels, dtype=torch.float32)
    for answer, (start, stop) in zip(answers, slices, strict=True):
        log_p = F.log_softmax(logits[:, start:stop] / TEMPERATURE, 1)
        p = F.softmax(answer / TEMPERATURE, 1)
        owned = (labels >= start) & (labels < stop)
        divergence = divergence + owned * F.kl_div(log_p, p, reduction="none").sum(1)
    cross_entropy = F.cross_entropy(logits, labels)
    return ALPHA * cross_entropy + (1 - ALPHA) * TEMPERATURE**2 * divergence.mean()


class TorchvisionViews(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR100 gives them, by way of PIL."""

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
