"""One teacher: a classifier, the classes of its logits, and the images it expects."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edufast.models.image_format import ImageFormat, processor_format, timm_format
from edufast.utils.errors import UserError
from edufast.utils.instances import check_instance
from edufast.utils.numbers import whole_numbers


@dataclass
class Teacher:
    """A classifier and the classes of its logits.

    Attributes:
        model: maps images (B, 3, H, W) to logits (B, len(classes)), or to an object with such an
            attribute ``logits``, as Hugging Face models do.
        classes: class id of each logit.
        name: in messages and reports.
        mean: per channel, of pixel / 255, with which its training images were normalised; None:
            that of the data set.
        std: likewise.
        image_size: height and width that it expects; None: that of the data set.
        shard: spread its weights over the ranks of a distributed training, for a teacher that is
            too large for every one of them, see docs/distributed.md. One process has the whole.

    Raises:
        ValueError: ``classes`` is empty or has a class twice, or ``mean``, ``std`` or
            ``image_size`` is invalid.
    """

    model: nn.Module
    classes: Sequence[int]
    name: str = "teacher"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int | None = None
    shard: bool = False
    # Of a model of which only a share is left here.
    _fingerprint: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_instance(f"model of {self.name}", self.model, nn.Module)
        check_instance(f"shard of {self.name}", self.shard, bool)
        self.classes = whole_numbers(f"classes of {self.name}", self.classes, 0)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(
                f"classes of {self.name} are {self.classes}; expected at least one, each once"
            )
        try:
            self.image_format(ImageFormat((0, 0, 0), (1, 1, 1), None))
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    @classmethod
    def pretrained(
        cls,
        model: nn.Module,
        classes: Sequence[int],
        name: str = "teacher",
        *,
        processor: Any = None,
    ) -> Teacher:
        """A teacher that looks at images as its publisher prepared them.

        Only where it is asked for: timm's models say how even if their weights are random.

        Args:
            model, classes, name: as of the class.
            processor: the Hugging Face image processor published with the weights; None: the model
                is one of timm, whose ``pretrained_cfg`` says it.

        Raises:
            UserError: neither says it, or the processor does more than resize and normalise.
        """
        found = timm_format(model) if processor is None else processor_format(processor)
        return cls(model, classes, name, found.mean, found.std, found.size)

    def image_format(self, usual: ImageFormat) -> ImageFormat:
        """What it expects where images are ``usual`` but for what it says of its own."""
        return ImageFormat.of(
            usual.mean if self.mean is None else self.mean,
            usual.std if self.std is None else self.std,
            usual.size if self.image_size is None else self.image_size,
        )

    @property
    def has_weights(self) -> bool:
        """Without any it only takes the place of a teacher that is never asked."""
        return bool(self.model.state_dict())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, types, shapes and values of its weights and buffers, of the whole
        model.

        Raises:
            UserError: its state holds something else than plain tensors, as quantised models' do.
        """
        if self._fingerprint is not None:
            return self._fingerprint
        digest = hashlib.sha256()
        state = self.model.state_dict()
        buffers = self.model.named_buffers(remove_duplicate=False)
        # Those that are no part of the state (persistent=False), too.
        unsaved = {name: buffer for name, buffer in buffers if name not in state}
        for name, tensor in {**state, **unsaved}.items():
            if not isinstance(tensor, Tensor) or tensor.is_quantized or tensor.is_meta:
                raise UserError(
                    f"{name!r} of {self.name} is no plain tensor, and cannot be told from others; "
                    "expected a state of plain tensors, or no stored logits"
                )
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()
