"""Settings of the optimisation, and options of a School."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from edufast.data import Augment
from edufast.utils.choices import Compile, Mix, Optimizer, Policy, Precision
from edufast.utils.devices import check_device
from edufast.utils.event_log import EventLog
from edufast.utils.instances import check_choice, check_instance
from edufast.utils.numbers import MOST_SEED, real_number, whole_number

_NUMBERS = (
    "lr", "pretrained_lr", "momentum", "weight_decay", "clip", "ema", "label_smoothing", "erase",
    "balance",
)  # fmt: skip


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which PyTorch autocasts to bfloat16 if ``precision`` is "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class Training:
    """Settings of the optimisation.

    Attributes:
        batch_size: samples per step.
        lr: base learning rate; the curriculum's schedule multiplies it.
        pretrained_lr: share of it, above 0 and up to 1, for parameters that were trained before,
            see ``Student(learned=...)``.
        optimizer: "sgd" (with momentum) or "adamw".
        momentum: of SGD.
        weight_decay: of both optimisers.
        clip: largest norm of the gradient of all weights together, adapters of the algorithm
            included; a larger one is scaled down to it. 0: no clipping.
        ema: decay of an exponential moving average of the student over its steps, below 1, such as
            0.999: about 1 / (1 - ema) steps. The average is what is validated and graduates, see
            :class:`edufast.training.average.Average`. 0: none.
        augment: random augmentation of the training images.
        policy: "randaugment" or "trivialaugment" also alters every image, for the teachers too, see
            :func:`edufast.data.policy.altered`. "none": images are not altered.
        erase: share of the images, up to 1, in which a rectangle is erased, for the teachers too,
            see :func:`edufast.data.erasing.erased`. 0: none.
        mix: "mixup" or "cutmix" mixes the images of a batch in pairs, for the teachers too, and
            their labels with them, see :func:`edufast.data.mixing.mixed`. Needs the targets
            "full" or "none", and an algorithm that takes soft labels. "none": no mixing.
        label_smoothing: share of each label, below 1, that is spread evenly over the classes
            taught, see :func:`edufast.data.mixing.smoothed`. Needs another target than
            "routed", and an algorithm that takes soft labels. 0: none.
        balance: how much more often images of rare classes are shown, from 0 (not) to 1 (all
            classes equally often), see :func:`edufast.data.sampling.repeated`.
        patience: the last grade ends after this many epochs in a row without a better validation
            accuracy; the student graduates as it is then. 0: all epochs are run.
        precision: "bf16" runs the student in bfloat16 by autocast; its weights, their updates and
            the losses stay float32. In a run, the teachers compute entirely in bfloat16. Faster if
            the hardware supports it (GPUs, CPUs with AVX512-BF16 or AMX), slower otherwise.
        compile: whether to compile the training step. "auto": only in grades that are long enough
            to save more time than compiling takes.

    Raises:
        ValueError: a number is not finite or out of range; ``policy``, ``mix``, ``optimizer``,
            ``precision`` or ``compile`` has another value.
    """

    batch_size: int = 128
    lr: float = 0.1
    pretrained_lr: float = 0.3
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float = 0.0
    ema: float = 0.0
    augment: Augment = field(default_factory=Augment)
    policy: Policy = "none"
    erase: float = 0.0
    mix: Mix = "none"
    label_smoothing: float = 0.0
    balance: float = 0.0
    patience: int = 0
    precision: Precision = "fp32"
    compile: Compile = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole_number("batch_size", self.batch_size))
        for name in _NUMBERS:
            object.__setattr__(self, name, real_number(name, getattr(self, name)))
        if self.lr == 0:
            raise ValueError("lr is 0; expected a number above 0")
        if not 0 < self.pretrained_lr <= 1:
            raise ValueError(
                f"pretrained_lr is {self.pretrained_lr}; expected a share of lr, above 0 and up to "
                "1"
            )
        for name in ("momentum", "ema", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number below 1")
        check_instance("augment", self.augment, Augment)
        for name in ("erase", "balance"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at most 1")
        object.__setattr__(self, "patience", whole_number("patience", self.patience, 0))
        check_choice("policy", self.policy, get_args(Policy))
        check_choice("mix", self.mix, get_args(Mix))
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_choice("precision", self.precision, get_args(Precision))
        check_choice("compile", self.compile, get_args(Compile))

    @property
    def unstored(self) -> str | None:
        """The first setting that alters images, so that logits cannot be stored, and its value."""
        altering = {"policy": "none", "erase": 0.0, "mix": "none"}
        found = {name: getattr(self, name) for name in altering}
        return next((f"{n} is {v!r}" for n, v in found.items() if v != altering[n]), None)

    def create_optimizer(
        self, parameters: Iterable[nn.Parameter], learned: Collection[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        """An optimiser of ``parameters``, which one fused kernel updates.

        Those in ``learned`` are a group of their own, with the option "learned".
        """
        groups: Iterable[Any] = parameters
        if learned:
            parameters = list(parameters)
            groups = [
                {"params": [p for p in parameters if p in learned], "learned": True},
                {"params": [p for p in parameters if p not in learned]},
            ]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            groups,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.momentum > 0,
            fused=True,
        )

    def set_rate(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        """Set the learning rate of all groups; those of ``learned`` get their share of it."""
        for group in optimizer.param_groups:
            own = rate * (self.pretrained_lr if group.get("learned") else 1)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(own)
            else:
                group["lr"] = own


@dataclass(frozen=True)
class SchoolOptions:
    """Where and under which name a School trains, and what it records.

    Attributes:
        device: where the student trains; the faculty must be on the same device.
        seed: of the order and the augmentation of the samples.
        event_log: receives the events of steps, epochs and grades; None: they are discarded.
        checkpoint: file that makes the training resumable: if it exists, ``fit`` continues from
            it, or refuses one that a School with other arguments wrote. None: not resumable.
        name: of the training, in events and in the progress bar.

    Raises:
        UserError: torch finds no such device here.
        ValueError, TypeError: ``seed`` is no integer from 0 to 2^53, or another argument is of
            another kind.
    """

    device: torch.device | str = "cpu"
    seed: int = 0
    event_log: EventLog | None = None
    checkpoint: Path | None = None
    name: str = "education"

    def __post_init__(self) -> None:
        check_device(self.device)
        if self.event_log is not None:
            check_instance("event_log", self.event_log, EventLog)
        if self.checkpoint is not None:
            check_instance("checkpoint", self.checkpoint, str, os.PathLike)
            object.__setattr__(self, "checkpoint", Path(self.checkpoint))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0, MOST_SEED))
