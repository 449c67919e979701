"""Teacher weights of AEKD (Du et al. 2020): the minimum-norm mixture of the teachers' gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edufast.ops._arguments import class_slices, teachers_of, tensor
from edufast.ops._library import checked, register
from edufast.ops._numbers import Number, number, one_for_each_teacher, packed
from edufast.ops.backends import select_backend
from edufast.ops.reference.min_norm import (
    Gram,
    Weights,
    leaves_one_point,
    reference_gram,
    reference_weights,
)
from edufast.ops.slices import ClassSlices, Slice
from edufast.utils._torch_private import Operator

# --- the operators ------------------------------------------------------------------------------


def _fake_gram(*arguments: Any) -> Tensor:
    p = Gram(*arguments)
    p.check()
    k = len(p.teachers)
    return p.student.new_empty((k, k), dtype=torch.float64)


def _fake_weights(*arguments: Any) -> Tensor:
    p = Weights(*arguments)
    p.check()
    return p.gram.new_empty(p.gram.shape[:1], dtype=torch.float32)


def register_min_norm(gram: Operator, weights: Operator) -> None:
    """Shapes of operators with these schemas; neither is differentiable."""
    register(gram, _fake_gram)
    register(weights, _fake_weights)


register_min_norm(
    torch.ops.edufast.gradient_gram.default, torch.ops.edufast.min_norm_weights.default
)


def _weights(p: Gram, cap: float, backend: str) -> Tensor:
    numbers = packed([cap], p.student)
    if numbers is not None:
        cap = 0.0
    if backend == "reference":
        return reference_weights(Weights(reference_gram(p), cap, numbers))
    if backend == "triton":
        from edufast.kernels.min_norm import gradient_gram, min_norm_weights
    else:
        gradient_gram = torch.ops.edufast.gradient_gram.default
        min_norm_weights = torch.ops.edufast.min_norm_weights.default
    weights: Tensor = checked(min_norm_weights, checked(gradient_gram, *p), cap, numbers)
    return weights


# --- public function ----------------------------------------------------------------------------


def min_norm_weights(
    student: Tensor,
    teachers: Sequence[Tensor] | Tensor,
    *,
    slices: Sequence[Slice] | ClassSlices | None = None,
    temperature: Number | Sequence[Number] = 4.0,
    cap: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """AEKD's weights for K teachers, on the device: no host round trip, no backward pass.

    ``argmin_w |sum_k w_k g_k|^2`` with ``sum_k w_k = 1`` and ``0 <= w_k <= cap``, where ``g_k =
    T_k (softmax(student[S_k] / T_k) - softmax(teacher_k / T_k))`` is the gradient of ``T_k^2
    KL(teacher_k || student[S_k])`` for the student's logits, over the whole batch (Du et al. 2020,
    "Agree to Disagree"). The combined gradient descends on the loss of every teacher whose weight
    is below the cap. For ``kd_loss(..., weighting=weights)`` with the same slices and temperature.
    (The authors' code averages each g_k over the batch and may scale it to length 1 first; here
    the gradients are what the student receives.)

    Args:
        student: logits (B, C); float32, bfloat16, float16 (float64 for checking), any strides.
        teachers: K logit tensors (B, C_k), 1 <= K <= 32, each with its own dtype and strides.
        slices: K class slices S_k as in :func:`edufast.ops.kd_loss`; None: all teachers know all C.
        temperature: T, or K of them; from 1e-18 to 1e18. May be tensors, as those of
            :func:`edufast.ops.kd_loss`.
        cap: the tolerance C of the paper, the most that one teacher may weigh, in [1/K, 1]: 1/K is
            the average, None or 1 the unconstrained minimum-norm point.
        backend: "reference", "cpp" (CPU), "cuda", "triton"; None: the fastest for the device (see
            :func:`edufast.ops.select_backend`).

    Returns:
        (K,) float32, summing to 1; not differentiable. Equal gradients get equal weights; NaN in a
        logit makes every weight NaN.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    tensor("student", student)
    teachers = [t.detach() for t in teachers_of(student, teachers)]
    k = len(teachers)
    classes = class_slices(slices, student, teachers)
    temperatures: Any = one_for_each_teacher(temperature, k, student)
    numbers = packed(temperatures, student)
    p = Gram(
        student.detach(), teachers, list(classes.columns), list(classes.starts),
        temperatures if numbers is None else [], numbers,
    )  # fmt: skip
    p.check()
    if isinstance(cap, Tensor):  # its value cannot be checked without waiting
        raise TypeError("cap is a tensor; expected a float or None")
    cap = 1.0 if cap is None else float(number("cap", cap, student))
    if not 1 / k <= cap * (1 + 1e-9) or cap > 1:
        raise ValueError(f"cap is {cap}; expected a number from 1/K = {1 / k:.4g} to 1")
    name = select_backend(backend, student)
    if leaves_one_point(cap, k):
        return student.new_full((k,), 1 / k, dtype=torch.float32)
    with torch.no_grad():
        return _weights(p, cap, name)
