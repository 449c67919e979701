"""A lower bound for the time of a step: its arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edufast.bench.train.ladder import LoopOptions, faculty
from edufast.bench.train.setting import Setting
from edufast.training.settings import autocast


class Floor:
    """The student's forward and backward pass and, without a cache, the forward passes of the
    routed teachers, always on the same batch: no data loading, no loss, no optimiser."""

    def __init__(self, setting: Setting, options: LoopOptions) -> None:
        self.setting, self.options = setting, options
        self.student = setting.new_student().train().to(memory_format=torch.channels_last)
        images = torch.randn(setting.batch_size, *setting.input_size, device=setting.device)
        self.images = images.to(memory_format=torch.channels_last)
        self.grad = torch.randn(len(images), len(setting.data.classes), device=setting.device)
        self.faculty = faculty(setting, options)
        parts = self.images.tensor_split(len(self.faculty))
        self.parts = [] if options.cache else list(enumerate(parts))

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield self.images

    def step(self, batch: Tensor) -> Tensor:
        for k, part in self.parts:
            self.faculty.logits(k, part)
        with autocast(self.setting.device, self.options.precision):
            logits = self.student(batch)
        logits.backward(self.grad.to(logits.dtype))
        self.student.zero_grad(set_to_none=True)
        return logits.detach()
