"""Soft labels, such as those of mixup: a probability for every class instead of a single class.

The distillation is the operator's, without its cross-entropy; the cross-entropy is plain PyTorch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from edufast.ops._arguments import check_device, choice, tensor
from edufast.ops._numbers import Number, number, packed
from edufast.ops.reference.kd_loss import REDUCTIONS, Numbers
from edufast.utils._torch_private import values_are_at_hand

IGNORED = -100


def are_soft(labels: Any) -> TypeGuard[Tensor]:
    """Whether labels are probabilities by their type."""
    return isinstance(labels, Tensor) and labels.is_floating_point()


def depends_on_classes(weighting: Any, divergence: Any) -> bool:
    """Whether the distillation looks at a row's class."""
    by_class = weighting in ("routed", "confidence") if isinstance(weighting, str) else False
    return by_class or divergence == "dkd"


class SoftLabels(NamedTuple):
    """``alpha * CE(student, labels)``, and the arguments of kd_loss for the remaining terms."""

    probabilities: Tensor  # (..., C) float32, float64 for float64 logits
    alpha: Number  # a float, or a tensor that may be NaN
    reduction: int  # in REDUCTIONS
    distillation: dict[str, Any]  # keywords of kd_loss, to be multiplied by 1 - alpha

    @classmethod
    def of(cls, student: Tensor, labels: Tensor, options: dict[str, Any]) -> SoftLabels:
        """From the arguments of :func:`edufast.ops.kd_loss` but the teachers and ``backend``.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        check_soft_labels(labels, tensor("student", student))
        if depends_on_classes(options["weighting"], options["divergence"]):
            raise ValueError(
                f"labels has dtype {labels.dtype}; expected integers where weighting ('routed', "
                "'confidence') or divergence ('dkd') depend on them"
            )
        dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
        alpha, smoothing = _alpha_and_smoothing(options, student, dtype)
        q = labels.detach().to(dtype)
        if isinstance(smoothing, Tensor) or smoothing != 0:
            q = (1 - smoothing) * q + smoothing / student.shape[-1]
        # All that is asked of these classes is whether a row counts: it does not beside alpha = 1.
        classes = torch.zeros(student.shape[:-1], dtype=torch.int64, device=student.device)
        distillation = {
            **options,
            "labels": classes + IGNORED * (alpha == 1),
            "ignore_index": IGNORED,
            "alpha": 0.0,
            "label_smoothing": 0.0,
        }
        return cls(q, alpha, choice("reduction", options["reduction"], REDUCTIONS), distillation)

    def cross_entropy(self, student: Tensor) -> Tensor:
        """``alpha`` times it: reduced, or (...). What counts for nothing is not read."""
        q, alpha = self.probabilities, self.alpha
        if isinstance(alpha, Tensor):  # nothing branches
            student, q = (x.masked_fill(alpha == 0, 0) for x in (student, q))
        elif alpha == 0:
            return q.new_zeros(q.shape[:-1] if self.reduction == REDUCTIONS["none"] else ())
        log_p = student.to(q.dtype).log_softmax(-1)
        rows = -(q * log_p.masked_fill(q == 0, 0)).sum(-1)  # 0 * -inf: the class is masked
        if self.reduction == REDUCTIONS["none"]:
            return alpha * rows
        mean = self.reduction == REDUCTIONS["mean"]
        return alpha * rows.sum() / (max(rows.numel(), 1) if mean else 1)


def check_soft_labels(labels: Tensor, student: Tensor) -> None:
    """Like student; at least 0 and with a sum of 1, where the numbers can be looked at."""
    if labels.shape != student.shape:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; expected integers "
            f"{tuple(student.shape[:-1])} or probabilities {tuple(student.shape)}"
        )
    check_device("labels", labels, student)
    if not values_are_at_hand(labels) or not labels.numel():
        return
    low, total = labels.amin(-1), labels.sum(-1, dtype=torch.float32)
    wrong = ~((low >= 0) & ((total - 1).abs() <= 0.01))  # NaN is wrong, too
    if wrong.any():
        row = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"labels{list(row) or ''} has the sum {total[row].item():.4g} and the smallest number "
            f"{low[row].item():.4g}; expected probabilities: at least 0, their sum 1"
        )


def _alpha_and_smoothing(
    options: dict[str, Any], student: Tensor, dtype: torch.dtype
) -> tuple[Number, Number]:
    """Floats, or tensors on the student's device, where one out of range makes alpha NaN."""
    alpha, smoothing = (number(x, options[x], student) for x in ("alpha", "label_smoothing"))
    row = packed([alpha, smoothing], student)
    if row is not None and values_are_at_hand(row):
        alpha, smoothing = row.tolist()
    elif row is not None:
        alpha, smoothing = row.to(student.device, dtype, non_blocking=True).unbind()
    numbers = Numbers([], alpha, smoothing, [])
    numbers.check(0, "forward_kl")
    right = numbers.are_in_range("forward_kl")
    return alpha if isinstance(right, bool) else torch.where(right, alpha, math.nan), smoothing
