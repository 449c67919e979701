"""The teachers: frozen classifiers, each of a slice of the classes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edufast.data import Augment, Batch, DataSet
from edufast.models.bn_folding import folded_if_traceable
from edufast.utils.flops import forward_flops


@dataclass
class Teacher:
    """A classifier and the classes of its logits.

    Attributes:
        model: maps images (B, 3, H, W) to logits (B, len(classes)).
        classes: class id of each logit.
        name: in messages and reports.
    """

    model: nn.Module
    classes: Sequence[int]
    name: str = "teacher"

    def __post_init__(self) -> None:
        self.classes = tuple(self.classes)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(
                f"classes of {self.name} are {self.classes}; expected at least one, each once"
            )


class Answer(NamedTuple):
    """Logits of a teacher for n images.

    Attributes:
        logits: (n, C_k) float32.
        computed: number of images that the teacher was run on; the logits of others were stored.
    """

    logits: Tensor
    computed: int


class Faculty(Sequence[Teacher]):
    """Teachers in a fixed order, frozen, in eval mode.

    The models that run are copies in channels-last layout, with batch norm folded into the layers
    before it. A model that torch.fx cannot trace is run itself and no longer requires gradients.
    Teachers run one after another, so that memory holds the activations of only one.

    Args:
        teachers: any number, including none.
        device: where they run.
        dtype: of their weights and activations, usually ``torch.bfloat16``. None: unchanged.
        compile: whether to compile each teacher, once for every regular number of images.

    Attributes:
        has_features: whether :meth:`model` can be run for features that a loss reads.
    """

    has_features: ClassVar[bool] = True

    # Milliseconds on one thread of an AMD EPYC with AVX512-BF16 (processor time, fastest run of
    # 20 s), 64 images of 32 x 32, resnet110 | resnet32x4:
    #   float32 246 | 685, channels first 302 | 806, inference mode 239 | 676, compiled 221 | 637
    #   bfloat16 106 | 336, compiled 93 | 325 (compiling: 13 s to 30 s each)
    # Inference mode gains too little to be worth tensors that autograd rejects. Three teachers of
    # one architecture in a single call (vmap over stacked weights) took 1.1 to 1.5 times as long as
    # one after another.

    def __init__(
        self,
        teachers: Sequence[Teacher],
        device: torch.device | str = "cpu",
        *,
        dtype: torch.dtype | None = None,
        compile: bool = False,
    ) -> None:
        self._teachers = tuple(teachers)
        self.device = torch.device(device)
        self.dtype = dtype
        self._models = [
            _own_copy(teacher.model, dtype)
            .requires_grad_(False)
            .to(self.device, dtype)
            .to(memory_format=torch.channels_last)
            for teacher in self._teachers
        ]
        self._regular = [_compiled(m) for m in self._models] if compile else self._models

    def __len__(self) -> int:
        return len(self._teachers)

    def __getitem__(self, index: int) -> Teacher:  # type: ignore[override]
        return self._teachers[index]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    def flops(self, teacher: int, input_size: Sequence[int]) -> int:
        """FLOPs (2 x multiply-adds) of a forward pass for one image of shape ``input_size``."""
        return forward_flops(self._models[teacher], input_size)

    def model(self, teacher: int) -> nn.Module:
        """The model that runs for ``teacher``, not compiled."""
        return self._models[teacher]

    @torch.no_grad()
    def logits(self, teacher: int, images: Tensor, *, eager: bool = False) -> Tensor:
        """Logits (B, C_k) float32 of ``teacher`` for ``images`` (B, 3, H, W).

        Args:
            teacher: its position in the faculty.
            images: normalised as for training, on the faculty's device.
            eager: do not use compiled code, for an irregular number of images or to run hooks.
        """
        model = self._models[teacher] if eager else self._regular[teacher]
        logits: Tensor = model(images if self.dtype is None else images.to(self.dtype))
        return logits.float()

    def prepare(self, data: DataSet, augment: Augment) -> None:
        """Called by a School before training, with its data set and augmentation."""

    def answer(self, teacher: int, batch: Batch, rows: slice) -> Answer:
        """Logits of ``teacher`` for some rows of a batch."""
        images = batch.images[rows]
        return Answer(self.logits(teacher, images), len(images))


def _own_copy(model: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    folded = folded_if_traceable(model)
    # Converting the teachers to another dtype must not convert the caller's model.
    return copy.deepcopy(model) if folded is model and dtype is not None else folded


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return logits

    # Dynamo allows eight recompilations per code object: give each teacher one of its own.
    run.__code__ = run.__code__.replace()
    compiled: Callable[[Tensor], Tensor] = torch.compile(run, dynamic=False)
    return compiled
