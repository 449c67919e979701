"""How a student is optimised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from edufast.data import Augment


@dataclass(frozen=True)
class Training:
    """How a student is optimised.

    Attributes:
        batch_size: samples in a step.
        lr: base learning rate; the curriculum's schedule multiplies it.
        optimizer: "sgd" (with momentum) or "adamw".
        momentum: of SGD.
        weight_decay: of either.
        exit_weight: above 0, the heads of earlier grades stay as exits, and their losses count this
            much; see :class:`edufast.Student` with ``keep_exits``.
        augment: random views of the training images.
    """

    batch_size: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    exit_weight: float = 0.0
    augment: Augment = field(default_factory=Augment)

    def create_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser over ``parameters``."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
        )
