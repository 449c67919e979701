"""A teacher's network where it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edufast.models.bn_folding import folded_if_traceable
from edufast.models.conv_fusing import fused
from edufast.models.image_format import ImageFormat
from edufast.models.tracing import to_faster_layout
from edufast.teachers.preprocessing import Preprocess
from edufast.teachers.teacher import Teacher
from edufast.utils._torch_private import with_own_code
from edufast.utils.cuda_graph import Replays
from edufast.utils.errors import UserError
from edufast.utils.flops import forward_flops
from edufast.utils.modes import out_of_inference_mode
from edufast.utils.registry import call_user


class RunningTeacher:
    """A private copy of a teacher's network, and how it is run.

    Args:
        teacher: to be run.
        number: its position in the faculty, for messages.
        device: where it runs.
        dtype: of its weights and activations; None: unchanged.
        compile: whether to compile it, for regular numbers of images.
        sharded: whether this rank keeps its share of it only.

    Attributes:
        teacher: as given; if it is sharded, with the share as its model.
        name: with its number, for messages.
        model: the copy, not compiled.
        sharded: as given.

    Raises:
        UserError: it cannot be copied, moved or sharded.
    """

    def __init__(
        self,
        teacher: Teacher,
        number: int,
        device: torch.device,
        *,
        dtype: torch.dtype | None,
        compile: bool,
        sharded: bool,
    ) -> None:
        self.teacher, self.sharded = teacher, sharded
        self.name = f"teacher {number} ({teacher.name})"
        self._device, self._dtype = device, dtype
        self.model = self._installed()
        if sharded:
            self.teacher = replace(teacher, model=self.model, _fingerprint=teacher.fingerprint)
        self._regular: Callable[[Tensor], object] = self.model
        if compile:
            self._regular = _compiled(self.model)
        elif not sharded:
            self._regular = fused(self.model, teacher.name)
        self._replays = Replays(teacher.name, None if sharded else device)
        self._preprocess: Preprocess | None = None
        # Whether it needs contiguous images; None: not known yet. A sharded one is not tried.
        self._contiguous = False if sharded else None
        # Whether it writes into its images, which others read after it: not known at first.
        self._writes = True

    def flops(self, input_size: Sequence[int]) -> int:
        """FLOPs (2 x multiply-adds) of a forward pass for one image, (3, H, W) for the student."""
        size = self.input_size(input_size)
        self._choose_layout(size)
        return forward_flops(self.model, size)

    def input_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Shape that it expects of an image that is (3, H, W) for the student."""
        own = self.teacher.image_size
        return tuple(input_size) if own is None else (input_size[0], own, own)

    def prepare(self, given: ImageFormat) -> None:
        """Convert images from now on, which come as ``given``."""
        self._preprocess = Preprocess(given, self.teacher.image_format(given), self._device)

    def logits(self, images: Tensor, *, eager: bool) -> Tensor:
        """As :meth:`edufast.teachers.faculty.Faculty.logits`."""
        images = self._expected(images)
        self._choose_layout(images.shape[1:])
        if eager:
            return self._run(self.model, images)
        return self._replays(self._run, self._regular, images)

    def _installed(self) -> nn.Module:
        """A copy of the network, where it runs."""
        place = self._device, self._dtype
        model: nn.Module = call_user(f"{self.name} cannot be copied", _copied, self.teacher.model)
        if not self.sharded:
            model = call_user(f"{self.name} cannot be moved to {self._device}", model.to, *place)
            return model.to(memory_format=torch.channels_last)
        from edufast.teachers.sharding import sharded  # takes half a second to import

        model = call_user(f"{self.name} cannot be sharded", sharded, model, *place)
        return model

    def _choose_layout(self, input_size: Sequence[int]) -> None:
        """Once, of the weights and of the images that the network is given."""
        if self._contiguous is None:
            self._contiguous = not to_faster_layout(self.model, input_size)

    def _expected(self, images: Tensor) -> Tensor:
        if self._preprocess is not None:
            return self._preprocess(images)
        teacher = self.teacher
        if (teacher.mean, teacher.std, teacher.image_size) != (None, None, None):
            raise RuntimeError(
                f"{self.name} expects images with its own mean, std or size, but it is not known "
                "how these were prepared: call prepare(data, augment) first"
            )
        return images

    def _run(self, model: Callable[[Tensor], object], images: Tensor) -> Tensor:
        images = images if self._dtype is None else images.to(self._dtype)
        if self._contiguous:
            images = images.contiguous()
        if self._writes:
            images = images.clone()
        try:
            output = model(images)
        except Exception as error:
            how = ", sharded," if self.sharded else ""
            raise UserError(
                f"{self.name}{how} fails on images {tuple(images.shape)}: "
                f"{str(error).partition(chr(10))[0]}"
            ) from error
        if self._writes and not images.is_inference():  # which count no versions
            self._writes = images._version > 0
        return out_of_inference_mode(self._logits_of(output, images).detach().float())

    def _logits_of(self, output: object, images: Tensor) -> Tensor:
        logits = getattr(output, "logits", output)
        expected = (len(images), len(self.teacher.classes))
        if not isinstance(logits, Tensor):
            raise UserError(
                f"{self.name} gives a {type(logits).__name__}; expected logits, a tensor "
                f"{expected}, or an object with an attribute 'logits' of that kind"
            )
        odd = logits.layout != torch.strided or logits.is_nested or logits.is_quantized
        if odd or logits.is_complex() or (logits.is_meta and not images.is_meta):
            kind = "nested" if logits.is_nested else f"{logits.dtype}, {logits.layout}"
            raise UserError(
                f"{self.name} gives logits that are {kind} on {logits.device}; expected real "
                "numbers in a dense tensor"
            )
        if logits.shape != expected:
            raise UserError(
                f"{self.name} gives logits {tuple(logits.shape)}; expected {expected}, one for "
                f"each of its {expected[1]} classes"
            )
        return logits


def _copied(model: nn.Module) -> nn.Module:
    return folded_if_traceable(model).requires_grad_(False)


def _compiled(model: nn.Module) -> Callable[[Tensor], object]:
    def run(images: Tensor) -> object:
        return model(images)

    compiled: Callable[[Tensor], object] = torch.compile(with_own_code(run), dynamic=False)
    return compiled
