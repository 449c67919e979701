"""Early exits: inference that ends for each image at the first confident exit."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edufast.student.student import Student
from edufast.utils.instances import check_instance
from edufast.utils.numbers import real_number


class Answer(NamedTuple):
    """The result of an :class:`EarlyExit`.

    Attributes:
        logits: (B, classes), columns in the order of class ids.
        depth: (B,) int64, the number of fragments that each image ran through.
    """

    logits: Tensor
    depth: Tensor


class EveryExit(nn.Module):
    """The logits of all exits of a finished student, for inference.

    Args:
        student: must have all classes. It is copied, and the copy put in eval mode.

    Raises:
        RuntimeError: classes are missing.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.order = list(student.columns_by_id)
        self.student = copy.deepcopy(student).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, *input_size) to logits (B, classes) at each of the student's ``depths``,
        columns in the order of class ids."""
        logits = self.student.forward_exits(images)
        if self.order == sorted(self.order):  # no operator for it in an exported program
            return tuple(logits)
        return tuple(each[:, self.order] for each in logits)


def exit_flops(student: Student) -> tuple[int, ...]:
    """Forward FLOPs (2 x multiply-adds) of an image that leaves at each of ``student.depths``, the
    heads of the exits that it passes included."""
    total, flops = 0, []
    for depth, fragment in enumerate(student.fragments[: student.grown], 1):
        total += fragment.flops
        if depth in student.depths:
            trunk = sum(each.flops for each in student.fragments[:depth])
            total += student.flops(depth) - trunk
            flops.append(total)
    return tuple(flops)


class EarlyExit(nn.Module):
    """Inference with a student whose exits were kept and trained (``grow(keep_exits=True)``).

    An image leaves at the first exit that gives some class a probability of at least ``threshold``,
    or else at the last exit. Only the remaining images run through the next fragment. At every exit
    but the last, the host waits for the device once to learn how many remain.

    Args:
        student: must have all classes. It is copied, and the copy put in eval mode.
        threshold: from 0, where all images leave at the first exit, to 1.

    Raises:
        ValueError: ``threshold`` is out of range.
        RuntimeError: classes are missing.
    """

    def __init__(self, student: Student, threshold: float) -> None:
        super().__init__()
        check_instance("student", student, Student)
        self.threshold = real_number("threshold", threshold)
        if self.threshold > 1:
            raise ValueError(f"threshold is {threshold}; expected a number from 0 to 1")
        self.order = list(student.columns_by_id)
        self.student = copy.deepcopy(student).eval()
        self.eval()

    def forward(self, images: Tensor) -> Answer:
        """Images (B, *input_size) to logits and depths.

        Raises:
            RuntimeError: in train mode.
        """
        if self.training:
            raise RuntimeError("early exits are for inference: call eval() first")
        student, x = self.student, self.student.cutting.reduced(images)
        left = torch.arange(len(images), device=images.device)  # the image in each row of x
        taken = torch.full_like(left, student.grown)
        logits = images.new_empty(0)
        for depth, fragment in enumerate(student.fragments[: student.grown], 1):
            x = fragment(student.model, x)
            if depth not in student.depths:
                continue
            exit_logits = student.read(x, depth)
            # Images that remain overwrite their rows at the next exit.
            logits = logits.index_copy(0, left, exit_logits) if len(logits) else exit_logits
            sure = exit_logits.softmax(1).amax(1) >= self.threshold
            if depth == student.grown:
                break
            taken[left[sure]] = depth
            left, x = left[~sure], x[~sure]
            if len(left) == 0:
                break
        return Answer(logits[:, self.order], taken)
