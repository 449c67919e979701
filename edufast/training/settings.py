"""How a student is optimised, and what a School needs to know besides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import nn

from edufast.data import Augment
from edufast.utils.event_log import EventLog

Precision: TypeAlias = Literal["fp32", "bf16"]
Compile: TypeAlias = Literal["auto", True, False]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within it, "bf16": networks compute in bfloat16, where PyTorch deems that safe."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class Training:
    """How a student is optimised.

    Attributes:
        batch_size: samples in a step.
        lr: base learning rate; the curriculum's schedule multiplies it.
        optimizer: "sgd" (with momentum) or "adamw".
        momentum: of SGD.
        weight_decay: of either.
        augment: random views of the training images.
        precision: "bf16" runs the student in bfloat16 by autocast, and in a run the teachers
            altogether; its weights, their updates and the losses stay float32. Faster where the
            hardware has it (GPUs, CPUs with AVX512-BF16 or AMX), slower elsewhere.
        compile: whether to compile the training step. "auto": in grades long enough for the time
            saved to exceed that of compiling.

    Raises:
        ValueError: ``precision`` or ``compile`` is none of these.
    """

    batch_size: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Augment = field(default_factory=Augment)
    precision: Precision = "fp32"
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision={self.precision!r}: expected 'fp32' or 'bf16'")
        if self.compile not in get_args(Compile):
            raise ValueError(f"compile={self.compile!r}: expected 'auto', True or False")

    def create_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over ``parameters``; one fused kernel updates all of them."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(
                parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
            fused=True,
        )


@dataclass(frozen=True)
class SchoolOptions:
    """What a School needs to know besides what it teaches.

    Attributes:
        device: where the student trains; the faculty must be there too.
        seed: of the order and the views of the samples.
        event_log: gets an event for every epoch and grade; None: nobody is told.
        checkpoint: file that keeps the training resumable: ``fit`` goes on from it where it
            exists. None: not resumable.
        name: of this training in events and progress bar.
    """

    device: torch.device | str = "cpu"
    seed: int = 0
    event_log: EventLog | None = None
    checkpoint: Path | None = None
    name: str = "education"
