"""The teachers: frozen classifiers, each of a slice of the classes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from edufast.data import Augment, Batch, DataSet, Loader
from edufast.data.class_map import ClassMap
from edufast.data.image_files import naming_unreadable
from edufast.models.bn_folding import folded_if_traceable
from edufast.models.conv_fusing import fused
from edufast.models.image_format import ImageFormat
from edufast.models.tracing import are_probabilities, to_faster_layout
from edufast.teachers.preprocessing import Preprocess
from edufast.teachers.teacher import Teacher
from edufast.utils._torch_private import with_own_code
from edufast.utils.cuda_graph import Replays
from edufast.utils.devices import check_device
from edufast.utils.errors import UserError
from edufast.utils.flops import forward_flops
from edufast.utils.instances import all_of, check_instance
from edufast.utils.modes import out_of_inference_mode
from edufast.utils.ranks import is_first, join, size
from edufast.utils.registry import call_user

_CHECKED, _CHECKED_AT_ONCE = 64, 16  # images that tell whether a teacher knows its classes


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

    The models that run are private copies, in channels-last layout if they run in it, with batch
    norm folded into the layers before it if torch.fx can trace the model: later changes to a model
    do not affect its copy, nor the other way round. In half precision on a GPU, convolutions run
    fused with what follows them (:mod:`edufast.models.conv_fusing`), but for irregular numbers of
    images. Teachers run one after another, so that memory holds the activations of only one. Of a
    teacher with ``shard``, on several ranks, a Faculty keeps this rank's share only.

    Args:
        teachers: any number, including none.
        device: where they run.
        dtype: of their weights and activations, usually ``torch.bfloat16``. None: unchanged.
        compile: whether to compile each teacher, once for every regular number of images. On a GPU
            it is captured as a CUDA graph, compiled or not. Not together with sharded teachers,
            which are not captured either.

    Attributes:
        has_features: whether :meth:`model` can be run for features that a loss reads.

    Raises:
        TypeError: ``teachers`` are not :class:`Teacher` objects, or ``dtype`` is none.
        ValueError: ``compile`` is True, and a teacher is sharded.
        UserError: torch finds no such device here, or a teacher cannot be copied or sharded.
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
        self._teachers = all_of("teachers", teachers, Teacher)
        if str(device) != "meta":  # where only shapes are tried out
            check_device(device)
        self.device = torch.device(device)
        if dtype is not None:
            check_instance("dtype", dtype, torch.dtype)
        check_instance("compile", compile, bool)
        self.dtype = dtype
        self._sharded = self._to_be_sharded()
        if compile and any(self._sharded):
            raise ValueError("compile is True, but a teacher is sharded; expected compile False")
        self._models = [self._installed(k) for k in range(len(self._teachers))]
        self._teachers = tuple(
            replace(teacher, model=model, _fingerprint=teacher.fingerprint) if shard else teacher
            for teacher, model, shard in zip(
                self._teachers, self._models, self._sharded, strict=True
            )
        )
        self._data: DataSet | None = None  # that it was prepared for
        self._preprocess: list[Preprocess] | None = None  # by teacher
        self._regular: Sequence[Callable[[Tensor], object]] = [
            _compiled(model) if compile else model if shard else fused(model, teacher.name)
            for teacher, model, shard in zip(
                self._teachers, self._models, self._sharded, strict=True
            )
        ]
        self._replays = [
            Replays(teacher.name, None if shard else self.device)
            for teacher, shard in zip(self._teachers, self._sharded, strict=True)
        ]
        # Whether a model needs contiguous images: not known at first; a sharded one is not tried.
        self._contiguous = [False if shard else None for shard in self._sharded]
        # Whether a model writes into its images, which others read after it: not known at first.
        self._writes = [True] * len(self._teachers)

    def __len__(self) -> int:
        return len(self._teachers)

    def __getitem__(self, index: int) -> Teacher:  # type: ignore[override]
        return self._teachers[index]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    def flops(self, teacher: int, input_size: Sequence[int]) -> int:
        """FLOPs (2 x multiply-adds) of a forward pass for one image, (3, H, W) for the student."""
        size = self.input_size(teacher, input_size)
        self._choose_layout(teacher, size)
        return forward_flops(self._models[teacher], size)

    def input_size(self, teacher: int, input_size: Sequence[int]) -> tuple[int, ...]:
        """Shape that ``teacher`` expects of an image that is (3, H, W) for the student."""
        own = self._teachers[teacher].image_size
        return tuple(input_size) if own is None else (input_size[0], own, own)

    def model(self, teacher: int) -> nn.Module:
        """The model that runs for ``teacher``, on images as it expects them; not compiled."""
        return self._models[teacher]

    @torch.no_grad()
    def logits(self, teacher: int, images: Tensor, *, eager: bool = False) -> Tensor:
        """Logits (B, C_k) float32 of ``teacher`` for ``images`` (B, 3, H, W).

        Args:
            teacher: its position in the faculty.
            images: normalised as for the student, on the faculty's device.
            eager: use neither compiled or fused code nor a CUDA graph, for an irregular number of
                images or to run hooks.

        Raises:
            UserError: the model fails, or returns no logits, or not one for each of the teacher's
                classes; the message names the teacher.
            RuntimeError: the teacher has its own mean, std or image size, and :meth:`prepare` has
                not been called, which tells it those of the images.
        """
        images = self._expected_images(teacher, images)
        self._choose_layout(teacher, images.shape[1:])
        if eager:
            return self._run(teacher, self._models[teacher], images)
        return self._replays[teacher](self._run, teacher, self._regular[teacher], images)

    def prepare(self, data: DataSet, augment: Augment) -> None:
        """Called by a School before training, with its data set and augmentation.

        From here on, images are converted for teachers that expect another mean, std or size than
        those of ``data``. Every teacher that has weights is run on a few training images; if its
        accuracy on its own classes is hardly better than chance, a warning names it.

        Raises:
            UserError: as :meth:`logits`.
        """
        if data is self._data:
            return
        given = ImageFormat(data.mean, data.std, data.image_size)
        self._preprocess = [
            Preprocess(given, teacher.image_format(given), self.device)
            for teacher in self._teachers
        ]
        present = [k for k, teacher in enumerate(self._teachers) if teacher.has_weights]
        for k in present:
            size = (1, 3, data.image_size, data.image_size)
            self.logits(k, torch.zeros(size, device=self.device), eager=True)
        checked = [k for k in present if is_first() or self._sharded[k]]
        if checked:
            with naming_unreadable(data.train, data.val):
                self._spot_check(checked, data)
        self._data = data

    def answer(self, teacher: int, batch: Batch, rows: slice) -> Answer:
        """Logits of ``teacher`` for some rows of a batch."""
        images = batch.images[rows]
        return Answer(self.logits(teacher, images), len(images))

    def stand_by(self, teacher: int, image: Tensor) -> None:
        """Called by a rank that has no images for ``teacher`` where others have: if it is sharded,
        they wait for this rank's share of it, and it runs on any ``image`` (1, 3, H, W)."""
        if self._sharded[teacher]:
            self.logits(teacher, image, eager=True)

    def _choose_layout(self, k: int, input_size: Sequence[int]) -> None:
        """Once, of the weights of a teacher and of the images that it is given."""
        if self._contiguous[k] is None:
            self._contiguous[k] = not to_faster_layout(self._models[k], input_size)

    def _to_be_sharded(self) -> list[bool]:
        """Whether each teacher is. A script may not have connected with the other ranks yet."""
        if any(teacher.shard for teacher in self._teachers):
            join()
        several = size() > 1 and self.device.type != "meta"
        return [teacher.shard and several for teacher in self._teachers]

    def _installed(self, k: int) -> nn.Module:
        """The private copy of a teacher's model, where it runs."""
        teacher = self._teachers[k]
        what = f"teacher {k} ({teacher.name})"
        place = self.device, self.dtype
        model: nn.Module = call_user(f"{what} cannot be copied", _copied, teacher.model)
        if not self._sharded[k]:
            model = call_user(f"{what} cannot be moved to {self.device}", model.to, *place)
            return model.to(memory_format=torch.channels_last)
        from edufast.teachers.sharding import sharded  # takes half a second to import

        model = call_user(f"{what} cannot be sharded", sharded, model, *place)
        return model

    def _spot_check(self, present: Sequence[int], data: DataSet) -> None:
        loader = Loader(
            data.train,
            batch_size=min(_CHECKED_AT_ONCE, len(data.train)),
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            device=self.device,
        )
        for k in present:
            teacher = self._teachers[k]
            known = np.flatnonzero(np.isin(data.train.labels, teacher.classes))
            if not len(known):
                continue
            spread = np.linspace(0, len(known) - 1, min(_CHECKED, len(known))).astype(int)
            positions, right = ClassMap.of(teacher.classes).positions(self.device), 0
            probabilities = True
            for batch in loader.numbered(known[spread], np.zeros_like(spread)):
                logits = self.logits(k, batch.images, eager=True)
                right += int((logits.argmax(1) == positions[batch.labels]).sum())
                probabilities &= are_probabilities(logits)
            if not is_first():  # it took part, since the teacher is sharded
                continue
            if probabilities:
                warnings.warn(
                    f"teacher {k} ({teacher.name}) gives probabilities; expected logits, as they "
                    "are before a softmax",
                    stacklevel=3,
                )
            if _near_chance(right, len(spread), len(teacher.classes)):
                warnings.warn(
                    f"teacher {k} ({teacher.name}) is right about {right} of {len(spread)} "
                    f"training images of its {len(teacher.classes)} classes, hardly more than "
                    "chance; expected its classes in the order of its logits, and the mean, std "
                    "and image_size it learned with",
                    stacklevel=3,
                )

    def _expected_images(self, k: int, images: Tensor) -> Tensor:
        if self._preprocess is not None:
            return self._preprocess[k](images)
        teacher = self._teachers[k]
        if (teacher.mean, teacher.std, teacher.image_size) != (None, None, None):
            raise RuntimeError(
                f"teacher {k} ({teacher.name}) expects images with its own mean, std or size, but "
                "it is not known how these were prepared: call prepare(data, augment) first"
            )
        return images

    def _run(self, k: int, model: Callable[[Tensor], object], images: Tensor) -> Tensor:
        images = images if self.dtype is None else images.to(self.dtype)
        if self._contiguous[k]:
            images = images.contiguous()
        if self._writes[k]:
            images = images.clone()
        try:
            output = model(images)
        except Exception as error:
            how = ", sharded," if self._sharded[k] else ""
            raise UserError(
                f"teacher {k} ({self._teachers[k].name}){how} fails on images "
                f"{tuple(images.shape)}: {str(error).partition(chr(10))[0]}"
            ) from error
        if self._writes[k] and not images.is_inference():  # which count no versions
            self._writes[k] = images._version > 0
        return out_of_inference_mode(self._logits_of(output, k, images).detach().float())

    def _logits_of(self, output: object, k: int, images: Tensor) -> Tensor:
        teacher = self._teachers[k]
        logits = getattr(output, "logits", output)
        expected = (len(images), len(teacher.classes))
        if not isinstance(logits, Tensor):
            raise UserError(
                f"teacher {k} ({teacher.name}) gives a {type(logits).__name__}; expected logits, a "
                f"tensor {expected}, or an object with an attribute 'logits' of that kind"
            )
        odd = logits.layout != torch.strided or logits.is_nested or logits.is_quantized
        if odd or logits.is_complex() or (logits.is_meta and not images.is_meta):
            kind = "nested" if logits.is_nested else f"{logits.dtype}, {logits.layout}"
            raise UserError(
                f"teacher {k} ({teacher.name}) gives logits that are {kind} on {logits.device}; "
                "expected real numbers in a dense tensor"
            )
        if logits.shape != expected:
            raise UserError(
                f"teacher {k} ({teacher.name}) gives logits {tuple(logits.shape)}; expected "
                f"{expected}, one for each of its {expected[1]} classes"
            )
        return logits


def _copied(model: nn.Module) -> nn.Module:
    return folded_if_traceable(model).requires_grad_(False)


def _near_chance(correct: int, total: int, classes: int) -> bool:
    """Whether guessing would be right as often, within two standard deviations."""
    chance = total / classes
    limit = chance + 2 * math.sqrt(chance * (1 - 1 / classes))
    return correct <= limit < total


def _compiled(model: nn.Module) -> Callable[[Tensor], object]:
    def run(images: Tensor) -> object:
        return model(images)

    compiled: Callable[[Tensor], object] = torch.compile(with_own_code(run), dynamic=False)
    return compiled
