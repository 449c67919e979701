"""The teachers: frozen classifiers that each know a slice of the classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edufast.data import Augment, Batch, DataSet
from edufast.models.bn_folding import folded_if_traceable
from edufast.utils.errors import UserError
from edufast.utils.flops import forward_flops


@dataclass
class Teacher:
    """A classifier and what its logits stand for.

    Attributes:
        model: maps images (B, 3, H, W) to logits (B, len(classes)), or to an object with such an
            attribute ``logits``, as Hugging Face models do.
        classes: class id of each logit.
        name: for reports.
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

    @property
    def has_weights(self) -> bool:
        """Without any it only takes the place of a teacher that is never asked."""
        return bool(self.model.state_dict())


class Answer(NamedTuple):
    """What a teacher says about n images."""

    logits: Tensor  # (n, C_k) float32
    computed: int  # of how many the teacher computed them; the others were stored


class Faculty(Sequence[Teacher]):
    """Teachers in a fixed order, frozen, in eval mode.

    What runs is a private copy, channels last, with batch norm folded into the layers before it
    where torch.fx can trace the model: nothing that happens to the model afterwards reaches it, and
    it changes nothing about the model. They run one after another, so that memory holds the
    activations of one.

    Args:
        teachers: any number of them, also none.
        device: where they run.
        dtype: in which they compute; ``torch.bfloat16`` is what is meant for. None: their own.
        compile: compile each for every number of images it is regularly asked about.

    Attributes:
        has_features: whether :meth:`model` may be run for features that a loss reads.
    """

    has_features: ClassVar[bool] = True

    # Milliseconds on one thread of an AMD EPYC with AVX512-BF16 (processor time, fastest run of
    # 20 s), 64 images of 32 x 32, resnet110 | resnet32x4:
    #   float32 246 | 685, channels first 302 | 806, inference mode 239 | 676, compiled 221 | 637
    #   bfloat16 106 | 336, compiled 93 | 325 (compiling: 13 s to 30 s each)
    # Inference mode gains too little for tensors that autograd refuses. Three teachers of one
    # architecture as one call (vmap over stacked weights) took 1.1 to 1.5 times as long as in turn.

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
            folded_if_traceable(teacher.model)
            .requires_grad_(False)
            .to(self.device, dtype)
            .to(memory_format=torch.channels_last)
            for teacher in self._teachers
        ]
        self._data: DataSet | None = None  # that it was prepared for
        self._regular = [_compiled(m) for m in self._models] if compile else self._models

    def __len__(self) -> int:
        return len(self._teachers)

    def __getitem__(self, index: int) -> Teacher:  # type: ignore[override]
        return self._teachers[index]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    def flops(self, teacher: int, input_size: Sequence[int]) -> int:
        """FLOPs of one forward pass of one image of shape ``input_size`` (2 x multiply-adds)."""
        return forward_flops(self._models[teacher], input_size)

    def model(self, teacher: int) -> nn.Module:
        """What runs for ``teacher``: its folded copy, not compiled."""
        return self._models[teacher]

    @torch.no_grad()
    def logits(self, teacher: int, images: Tensor, *, eager: bool = False) -> Tensor:
        """What ``teacher`` says about ``images`` (B, 3, H, W): (B, C_k) float32.

        Args:
            eager: do not run compiled code: for an odd number of images, or where hooks listen.

        Raises:
            UserError: the model gives no logits, or more or fewer than the teacher has classes.
        """
        model = self._models[teacher] if eager else self._regular[teacher]
        output = model(images if self.dtype is None else images.to(self.dtype))
        return self._logits_of(output, teacher, len(images)).float()

    def prepare(self, data: DataSet, augment: Augment) -> None:
        """Called by a School before it asks anything: what will be learned, in which views.

        Every teacher that has weights is tried out on one image.

        Raises:
            UserError: that fails, or as :meth:`logits`; the message names the teacher.
        """
        if data is self._data:
            return
        for k, teacher in enumerate(self._teachers):
            if teacher.has_weights:
                self._try_out(k, (3, data.image_size, data.image_size))
        self._data = data

    def answer(self, teacher: int, batch: Batch, rows: slice) -> Answer:
        """What ``teacher`` says about some rows of a batch."""
        images = batch.images[rows]
        return Answer(self.logits(teacher, images), len(images))

    def _try_out(self, k: int, input_size: Sequence[int]) -> None:
        try:
            self.logits(k, torch.zeros(1, *input_size, device=self.device), eager=True)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"teacher {k} ({self._teachers[k].name}) fails on images of {tuple(input_size)}: "
                f"{str(error).partition(chr(10))[0]}"
            ) from error

    def _logits_of(self, output: object, k: int, count: int) -> Tensor:
        teacher = self._teachers[k]
        logits = getattr(output, "logits", output)
        expected = (count, len(teacher.classes))
        if not isinstance(logits, Tensor):
            raise UserError(
                f"teacher {k} ({teacher.name}) gives a {type(logits).__name__}; expected logits, a "
                f"tensor {expected}, or an object with an attribute 'logits' of that kind"
            )
        if logits.shape != expected:
            raise UserError(
                f"teacher {k} ({teacher.name}) gives logits {tuple(logits.shape)}; expected "
                f"{expected}, one for each of its {expected[1]} classes"
            )
        return logits


def _compiled(model: nn.Module) -> Callable[[Tensor], object]:
    def run(images: Tensor) -> object:
        return model(images)

    # Dynamo counts recompilations by code object, up to eight: let each teacher begin at zero.
    run.__code__ = run.__code__.replace()
    compiled: Callable[[Tensor], object] = torch.compile(run, dynamic=False)
    return compiled
