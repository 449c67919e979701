"""Early exits: an image leaves the student as soon as an exit is sure of it."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edufast.student.student import Student


class Answer(NamedTuple):
    """What an :class:`EarlyExit` gives.

    Attributes:
        logits: (B, classes), columns by class id.
        depth: (B,) int64, after how many fragments each image left.
    """

    logits: Tensor
    depth: Tensor


class EarlyExit(nn.Module):
    """Inference with a student whose exits were kept and trained (``grow(keep_exits=True)``).

    An image leaves at the first exit that gives one class a probability of ``threshold`` or more,
    else at the last. Only the images that are left run through the next fragment. Whether some are
    left is asked of the device once per exit.

    Args:
        student: with all classes. Copied, in eval mode.
        threshold: from 0, where all leave at the first exit, to 1.

    Raises:
        ValueError: ``threshold`` is out of range.
        RuntimeError: classes are missing.
    """

    def __init__(self, student: Student, threshold: float) -> None:
        super().__init__()
        if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold!r}: expected a number from 0 to 1")
        self.threshold = threshold
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
        student, x = self.student, images
        left = torch.arange(len(images), device=images.device)  # rows of x among the images
        taken = torch.full_like(left, student.grown)
        logits = images.new_empty(0)
        for depth, fragment in enumerate(student.fragments[: student.grown], 1):
            x = fragment(student.model, x)
            if depth not in student.depths:
                continue
            answers = student.read(x, depth)
            # Images that stay overwrite their rows at the next exit.
            logits = logits.index_copy(0, left, answers) if len(logits) else answers
            sure = answers.softmax(1).amax(1) >= self.threshold
            if depth == student.grown:
                break
            taken[left[sure]] = depth
            left, x = left[~sure], x[~sure]
            if len(left) == 0:
                break
        return Answer(logits[:, self.order], taken)
