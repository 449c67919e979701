"""The specification of the multi-teacher loss: its arguments and a plain PyTorch reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from edufast.ops._arguments import (
    check_code,
    check_given_weights,
    check_indices,
    check_labels,
    check_slices,
    check_student,
    check_teachers,
    check_temperatures,
    check_weight,
)
from edufast.ops._numbers import (
    Number,
    check_numbers,
    fits,
    is_beta,
    is_share,
    is_smoothing,
    is_temperature,
    is_weight,
)
from edufast.ops.reference._softmax import LARGEST_DIVERGENCE, softmax
from edufast.ops.reference.kd_loss_divergences import (
    DEFAULT_PARAMS,
    DIVERGENCES,
    Pair,
    divergence,
)
from edufast.ops.reference.kd_loss_weights import WEIGHTINGS, row_weights
from edufast.ops.slices import ClassSlices
from edufast.utils._torch_private import values_are_at_hand

# The numbers are part of the operator's schema; csrc/kd_loss.h holds the same list.
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


class Numbers(NamedTuple):
    """Arguments that may change from call to call, in the order of ``KDLoss.numbers``."""

    temperatures: Sequence[Number]  # K
    alpha: Number
    label_smoothing: Number
    divergence_params: Sequence[Number]  # as many as in DEFAULT_PARAMS

    @classmethod
    def of(cls, row: Sequence[Number], teachers: int) -> Numbers:
        return cls(row[:teachers], row[teachers], row[teachers + 1], row[teachers + 2 :])

    def row(self) -> list[Number]:
        return [*self.temperatures, self.alpha, self.label_smoothing, *self.divergence_params]

    def check(self, teachers: int, divergence: str) -> None:
        """Refuse floats out of range and counts that do not fit; tensors are not looked at."""
        check_temperatures(self.temperatures, teachers)
        if not fits(self.alpha, is_share):
            raise ValueError(f"alpha is {self.alpha}; expected a number in [0, 1]")
        if not fits(self.label_smoothing, is_smoothing):
            raise ValueError(
                f"label_smoothing is {self.label_smoothing}; expected a number in [0, 1)"
            )
        params = self.divergence_params
        if len(params) != len(DEFAULT_PARAMS[divergence]):
            raise ValueError(
                f"divergence_params has {len(params)} numbers; expected "
                f"{len(DEFAULT_PARAMS[divergence])} for {divergence}"
            )
        if divergence == "js" and not fits(params[0], is_beta):
            raise ValueError(f"divergence_params[0] is {params[0]}; expected 1e-18 <= beta < 1")
        if divergence == "dkd":
            check_weight("divergence_params[0]", params[0])
            check_weight("divergence_params[1]", params[1])

    def are_in_range(self, divergence: str) -> bool | Tensor:
        """The checks of :meth:`check`, also for tensors, without waiting for the answer."""
        right = is_share(self.alpha) & is_smoothing(self.label_smoothing)
        for temperature in self.temperatures:
            right = right & is_temperature(temperature)
        for param in self.divergence_params:
            right = right & (is_beta(param) if divergence == "js" else is_weight(param))
        return right


NO_FLOATS = Numbers([], 0.0, 0.0, [])  # their values when ``numbers`` is given


class KDLoss(NamedTuple):
    """The arguments of the operator ``edufast::kd_loss``, in the order of its schema."""

    student: Tensor  # (B, C) logits
    teachers: list[Tensor]  # K logits (B, C_k)
    labels: Tensor  # (B,) int64
    weights: Tensor | None  # (K,) or (B, K) float32, for the weighting "given"
    columns: list[Tensor]  # empty, or K: classes of each teacher's columns, none for a range
    starts: list[int]  # K: first class of a range
    temperatures: list[float]  # K
    alpha: float
    weighting: int  # in WEIGHTINGS
    divergence: int  # in DIVERGENCES
    divergence_params: list[float]  # as many as in DEFAULT_PARAMS
    label_smoothing: float
    ignore_index: int
    reduction: int  # in REDUCTIONS
    teacher_grad: bool
    # In the place of the floats among Numbers: float64, on the CPU or on the student's device.
    numbers: Tensor | None = None

    @property
    def slices(self) -> ClassSlices:
        sizes = tuple(t.shape[1] for t in self.teachers)
        return ClassSlices(tuple(self.starts), tuple(self.columns), sizes)

    def check(self) -> None:
        """Refuse what the operator in C++ refuses.

        Raises:
            ValueError, TypeError: an argument does not fit; the message names it.
        """
        check_student(self.student)
        check_teachers(self.student, self.teachers)
        check_labels(self.labels, self.student)
        check_slices(self.student, self.teachers, self.columns, self.starts)
        check_code("weighting", self.weighting, WEIGHTINGS)
        check_code("divergence", self.divergence, DIVERGENCES)
        check_code("reduction", self.reduction, REDUCTIONS)
        self._check_weights()
        name, teachers = self.divergence_name, len(self.teachers)
        if self.numbers is None:
            self.floats.check(teachers, name)
        else:
            count = teachers + 2 + len(DEFAULT_PARAMS[name])
            check_numbers(self.numbers, count, self.student, self.floats == NO_FLOATS)

    def _check_weights(self) -> None:
        w = self.weights
        if (w is not None) != (self.weighting == WEIGHTINGS["given"]):
            raise ValueError(
                f"weights is {'None' if w is None else 'a tensor'}; expected "
                f"{'a tensor' if w is None else 'None'} for weighting {self.weighting}"
            )
        if w is None:
            return
        check_given_weights("weights", w, self.student, len(self.teachers))
        if w.dtype != torch.float32:
            raise TypeError(f"weights has dtype {w.dtype}; expected torch.float32")

    @property
    def divergence_name(self) -> str:
        return list(DIVERGENCES)[self.divergence]

    @property
    def floats(self) -> Numbers:
        return Numbers(self.temperatures, self.alpha, self.label_smoothing, self.divergence_params)

    def with_floats(self) -> KDLoss:
        """The same with floats instead of ``numbers``, if they can be read without waiting.

        Raises:
            ValueError: one is out of range; the message names the argument.
        """
        if self.numbers is None or not values_are_at_hand(self.numbers):
            return self
        floats = Numbers.of(self.numbers.tolist(), len(self.teachers))
        floats.check(len(self.teachers), self.divergence_name)
        return self._replace(**floats._asdict(), numbers=None)


def numbers_of(p: KDLoss) -> Numbers:
    """Floats, or tensors without dimensions on the student's device."""
    if p.numbers is None:
        return p.floats
    row = p.numbers.to(p.student.device, non_blocking=True).unbind()
    return Numbers.of(row, len(p.teachers))


def reference(p: KDLoss) -> Tensor:
    """The specification, in plain differentiable PyTorch (fp32, or fp64 for fp64 logits).

    Conventions, which every backend shares:

    - The divergence of teacher k is taken over its slice at T_k and multiplied by T_k^2; its
      gradient therefore has the scale of the cross-entropy's (Hinton et al. 2015, section 2).
    - Weights are constants: no gradient flows through them. "mean", "entropy" and given weights
      apply to every row; "routed" and "confidence" to the teachers whose slice holds the label.
    - A teacher with weight 0 on a row is not read there (it may hold anything, NaN included).
    - Classes at -inf have probability 0. A slice that is -inf throughout, on either side,
      contributes nothing. NaN in a logit that is read gives a NaN loss.
    - A divergence is infinite where one side has mass and the other is masked (forward KL: the
      student; reverse KL: the teacher); its gradient is then finite and otherwise unspecified.
      One above 1e32 counts as infinite, and so does such a mean of -log p in label smoothing: only
      logits that mask by a huge negative number instead of -inf make it, and sums overflow.
    - "mean" divides by the number of rows that are not ignored; if all are, the loss is 0.
    - A label out of range is an error if it can be read without waiting for a device; otherwise
      the row's loss is NaN. So is every row's where a temperature, alpha or another of the numbers
      is out of range.
    """
    p = p.with_floats()
    n = numbers_of(p)
    classes = p.student.shape[1]
    check_indices(p.labels, p.ignore_index, p.columns, classes)
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    valid = p.labels != p.ignore_index
    exists = (p.labels >= 0) & (p.labels < classes)
    labels = p.labels.where(valid & exists, 0)
    z = p.student.to(dtype).masked_fill(~valid[:, None], 0)
    # A term with weight 0 is not read. Without branches, since the numbers may be tensors.
    read = z.masked_fill((n.alpha == 0) | ~valid[:, None], 0)
    row_loss = n.alpha * _cross_entropy(read, labels, n.label_smoothing)
    row_loss = _add_divergences(row_loss, p, n, z, labels, valid)
    exists = exists & n.are_in_range(p.divergence_name)
    row_loss = row_loss.masked_fill(~exists, math.nan).masked_fill(~valid, 0)
    if p.reduction == REDUCTIONS["none"]:
        return row_loss
    total = row_loss.sum()
    return total / valid.sum().clamp_min(1) if p.reduction == REDUCTIONS["mean"] else total


def _cross_entropy(z: Tensor, labels: Tensor, smoothing: Number) -> Tensor:
    s = softmax(z)
    label_term = -s.log_p.gather(1, labels[:, None])[:, 0]
    # Without smoothing, classes at -inf are not read. Dividing first keeps the sum of several
    # logits masked by the smallest number from overflowing.
    spread = (s.log_p / s.log_p.shape[1]).masked_fill(s.masked & (smoothing == 0), 0).sum(1)
    far = (spread < -LARGEST_DIVERGENCE) & (smoothing != 0)
    loss = (1 - smoothing) * label_term - smoothing * spread.masked_fill(far, -math.inf)
    return loss.masked_fill(s.empty, math.inf)


def _add_divergences(
    row_loss: Tensor, p: KDLoss, n: Numbers, z: Tensor, labels: Tensor, valid: Tensor
) -> Tensor:
    """``row_loss`` plus the sum over teachers of ``(1 - alpha) w T^2 D``."""
    teachers = [(t if p.teacher_grad else t.detach()).to(z.dtype) for t in p.teachers]
    slices = p.slices
    with torch.no_grad():
        if p.weights is None:
            weights = row_weights(p.weighting, labels, slices, [t.detach() for t in teachers])
        else:
            weights = p.weights.to(z.dtype).expand(len(labels), len(teachers))
        weights = weights.masked_fill((n.alpha == 1) | ~valid[:, None], 0)
    for k, t in enumerate(teachers):
        temperature, weight = n.temperatures[k], weights[:, k]
        unread = (weight == 0)[:, None]
        pair = Pair(
            slices.select(z, k).masked_fill(unread, 0) / temperature,
            t.masked_fill(unread, 0) / temperature,
            *slices.local_label(labels, k),
        )
        value = divergence(p.divergence, n.divergence_params, pair)
        scale = (1 - n.alpha) * temperature**2
        row_loss = row_loss + scale * weight * value.masked_fill(unread[:, 0], 0)
    return row_loss
