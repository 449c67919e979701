"""DIST (Huang et al. 2022): match a teacher's correlations, within rows and within columns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edufast.ops._arguments import tensor
from edufast.ops._autograd import FusedLoss, differentiable_loss, gradient_dtype, loss_dtype
from edufast.ops._library import register
from edufast.ops._numbers import Number, number, packed
from edufast.ops.backends import select_backend
from edufast.ops.reference.dist_loss import NO_FLOATS, DistLoss, Numbers, reference
from edufast.utils._torch_private import Operator

# --- the operators ------------------------------------------------------------------------------


def empty_results(p: DistLoss) -> tuple[Tensor, Tensor]:
    """Loss and gradient, not yet computed."""
    loss = p.student.new_empty((), dtype=loss_dtype(p.student))
    return loss, p.student.new_empty(p.student.shape, dtype=gradient_dtype(p.student))


def _fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    p = DistLoss(*arguments)
    p.check()
    return empty_results(p)


def register_dist_loss(operator: Operator) -> None:
    """Shapes and autograd of an operator with dist_loss's schema."""

    def differentiable(*arguments: Any) -> tuple[Tensor, Tensor]:
        p = DistLoss(*arguments)
        loss, grad = FusedLoss.apply(operator, p, False, p.student)
        return loss, grad

    register(operator, _fake, differentiable)


register_dist_loss(torch.ops.edufast.dist_loss.default)


def _fused(backend: str) -> Operator:
    if backend == "triton":
        from edufast.kernels.dist_loss import dist_loss as triton_dist_loss

        return triton_dist_loss
    operator: Operator = torch.ops.edufast.dist_loss.default
    return operator


# --- public function ----------------------------------------------------------------------------


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: Number = 1.0,
    beta: Number = 1.0,
    gamma: Number = 1.0,
    backend: str | None = None,
) -> Tensor:
    """DIST, "Knowledge Distillation from a Stronger Teacher" (Huang et al. 2022).

    ``tau^2 * (beta * (1 - mean_b pearson(p[b], q[b])) + gamma * (1 - mean_c pearson(p[:, c],
    q[:, c])))`` with ``p = softmax(student / tau)``, ``q = softmax(teacher / tau)``. Loss and
    gradient are computed together, in two or three passes over the logits. See
    :func:`edufast.ops.reference.dist_loss.reference` for the conventions on constant rows, masked
    classes and NaN. For several teachers sum the losses, each with the student's logits on that
    teacher's classes.

    Args:
        student: logits (B, C); float32, bfloat16, float16 (float64 for checking), any strides.
        teacher: logits (B, C), of its own float dtype and strides; a constant for the gradient.
        temperature: tau, from 1e-18 to 1e18; tau^2 multiplies the loss.
        beta: weight of the relations between classes (rows), at least 0.
        gamma: weight of the relations within a class over the batch (columns), at least 0. All
            three may be tensors, as the numbers of :func:`edufast.ops.kd_loss`.
        backend: "reference", "cpp" (CPU), "cuda", "triton"; None: the fastest for the device (see
            :func:`edufast.ops.select_backend`).

    Returns:
        The loss, a float32 scalar (float64 for float64 logits).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: second derivative asked of a fused backend.
    """
    tensor("student", student)
    tensor("teacher", teacher)
    numbers = Numbers(
        number("temperature", temperature, student),
        number("beta", beta, student),
        number("gamma", gamma, student),
    )
    numbers_tensor = packed(numbers, student)
    if numbers_tensor is not None:
        numbers.check()
        numbers = NO_FLOATS
    floats: dict[str, Any] = numbers._asdict()
    p = DistLoss(student, teacher.detach(), **floats, numbers=numbers_tensor)
    name = select_backend(backend, student)
    if name == "reference":
        p.check()
        return reference(p)
    return differentiable_loss(_fused(name), p, p.student)
