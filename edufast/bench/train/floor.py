"""The least a step can take: its arithmetic alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from edufast.bench.train.ladder import faculty
from edufast.bench.train.peers import has_bf16
from edufast.bench.train.setting import Setting


class Floor:
    """Student forward and backward and, unless ``cached``, the routed teachers' forward, on a batch
    that is there already: no data, loss or optimiser."""

    def __init__(self, setting: Setting, *, cached: bool = False) -> None:
        dtype = torch.bfloat16 if has_bf16(setting.device) else torch.float32
        self.student = setting.new_student().train().to(memory_format=torch.channels_last)
        teachers = faculty(setting)
        self.bf16 = has_bf16(setting.device)
        images = torch.randn(setting.batch_size, *setting.input_size, device=setting.device)
        self.images = images.to(memory_format=torch.channels_last)
        self.grad = torch.randn(
            setting.batch_size, len(setting.data.classes), device=setting.device
        )
        self.parts = [] if cached else list(self.images.to(dtype).tensor_split(len(teachers)))
        self.teachers = [teachers.model(k).to(dtype) for k in range(len(teachers))]

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield self.images

    def step(self, batch: Tensor) -> Tensor:
        with torch.no_grad():
            for teacher, part in zip(self.teachers, self.parts, strict=False):
                teacher(part)
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.student(batch)
        logits.backward(self.grad.to(logits.dtype))
        self.student.zero_grad(set_to_none=True)
        return logits.detach()
