"""DIST (Huang et al. 2022): match a teacher's correlations, within rows and within columns."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edufast.ops import _library  # noqa: F401  (registers torch.ops.edufast)
from edufast.ops._without_cuda import select_backend_without_cuda
from edufast.ops.kd_loss import _stored, _times
from edufast.ops.kd_loss_reference import _soften

# Of the correlation's denominator, as in the authors' code; csrc/dist_loss.h holds the same.
EPSILON = 1e-8
# Deviations up to this part of the mean count as none: rounding alone makes some of 1e-7.
FLAT = 1e-6


class Problem(NamedTuple):
    """The validated arguments of one call, in the order of the operator's schema."""

    student: Tensor
    teacher: Tensor
    temperature: float
    beta: float
    gamma: float


# --- reference --------------------------------------------------------------------------------


def _pearson(a: Tensor, b: Tensor, dim: int) -> Tensor:
    def centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(dim, keepdim=True)
        deviation = x - mean
        squares = (deviation * deviation).sum(dim)
        flat = squares <= (FLAT * mean.squeeze(dim)) ** 2 * x.shape[dim]
        return deviation, squares, flat

    a, a_squares, a_flat = centred(a)
    b, b_squares, b_flat = centred(b)
    flat = a_flat | b_flat
    a_norm, b_norm = (s.masked_fill(flat, 1).sqrt() for s in (a_squares, b_squares))
    return ((a * b).sum(dim) / (a_norm * b_norm + EPSILON)).masked_fill(flat, 0)


def reference(p: Problem) -> Tensor:
    """The specification, in plain differentiable PyTorch (fp32, or fp64 for fp64 logits).

    Conventions, which every backend shares:

    - ``pearson(a, b) = sum a' b' / (|a'| |b'| + 1e-8)``, a' and b' centred; as in the authors'
      code, whose loss likewise carries tau^2.
    - A row or column that is constant on either side (deviations below 1e-6 of the mean) has
      correlation 0 and no gradient. So do the columns of a single row, and a single class.
    - Classes at -inf have probability 0. A row that is -inf throughout counts as zeros.
    - NaN in a logit gives a NaN loss.
    - Without rows the loss is 0. The teacher is a constant: no gradient flows into it.
    """
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    a = _soften(p.student.to(dtype), p.temperature).p
    b = _soften(p.teacher.detach().to(dtype), p.temperature).p
    if not len(a):
        return a.sum()
    rows = 1 - _pearson(a, b, 1).mean()
    columns = 1 - _pearson(a, b, 0).mean()
    return p.temperature**2 * (p.beta * rows + p.gamma * columns)


# --- dispatch and autograd --------------------------------------------------------------------


class _Differentiable(torch.autograd.Function):
    """The fused operator, whose forward pass has already computed the gradient."""

    @staticmethod
    def forward(ctx: Any, operator: Any, student: Tensor, rest: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            loss, grad = operator(student, *rest)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(grad)
        ctx.set_materialize_grads(False)
        ctx.dtype = student.dtype
        return loss, grad

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, _: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "dist_loss has no second derivative in its fused backends (create_graph=True); "
                "use backend='reference'"
            )
        (grad,) = ctx.saved_tensors
        return None, None if d_loss is None else _times(grad, d_loss).to(ctx.dtype), None


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    student = Problem(*args).student
    loss_dtype = torch.float64 if student.dtype == torch.float64 else torch.float32
    return (
        student.new_empty((), dtype=loss_dtype),
        student.new_empty(student.shape, dtype=_stored(student)),
    )


def register(operator: torch._ops.OpOverload) -> None:
    """Shapes and autograd of an operator ``torch.ops.edufast.*`` with dist_loss's schema."""

    def differentiable(*args: Any) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = _Differentiable.apply(operator, args[0], args[1:])
        return result

    torch.library.register_fake(operator.name(), _fake)
    _LIBRARY.impl(operator.name(), differentiable, "Autograd")


_LIBRARY = torch.library.Library("edufast", "FRAGMENT")
register(torch.ops.edufast.dist_loss.default)


def _fused(name: str) -> torch._ops.OpOverload:
    if name == "triton":
        from edufast.kernels.dist_loss import dist_loss as triton_dist_loss

        return triton_dist_loss
    return torch.ops.edufast.dist_loss.default


# --- public function --------------------------------------------------------------------------


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    backend: str | None = None,
) -> Tensor:
    """DIST, "Knowledge Distillation from a Stronger Teacher" (Huang et al. 2022).

    ``tau^2 * (beta * (1 - mean_b pearson(p[b], q[b])) + gamma * (1 - mean_c pearson(p[:, c],
    q[:, c])))`` with ``p = softmax(student / tau)``, ``q = softmax(teacher / tau)``. Loss and
    gradient are computed together in two passes over the logits. See :func:`reference` for the
    conventions on constant rows, masked classes and NaN. For several teachers sum the losses,
    each with the student's logits on that teacher's classes.

    Args:
        student: logits (B, C); float32, bfloat16, float16 (float64 for checking), any strides.
        teacher: logits (B, C), of its own float dtype and strides; a constant for the gradient.
        temperature: tau, above 0; tau^2 multiplies the loss.
        beta: weight of the relations between classes (rows), at least 0.
        gamma: weight of the relations within a class over the batch (columns), at least 0.
        backend: "reference", "cpp", "triton"; None: "cpp" on a CPU, "triton" on CUDA.

    Returns:
        The loss, a float32 scalar (float64 for float64 logits).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: second derivative asked of a fused backend.
    """
    if student.dim() != 2 or student.shape[1] < 1:
        raise ValueError(f"student has shape {tuple(student.shape)}; expected (B, C) with C >= 1")
    if teacher.shape != student.shape:
        raise ValueError(
            f"teacher has shape {tuple(teacher.shape)}; expected {tuple(student.shape)} like "
            "student"
        )
    for name, t in (("student", student), ("teacher", teacher)):
        if not t.is_floating_point():
            raise TypeError(f"{name} has dtype {t.dtype}; expected a float type")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a finite number above 0")
    for name, weight in (("beta", beta), ("gamma", gamma)):
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} is {weight}; expected a finite number of at least 0")
    p = Problem(student, teacher.detach(), float(temperature), float(beta), float(gamma))
    name = select_backend_without_cuda(backend, student)
    if name == "reference":
        return reference(p)
    operator = _fused(name)
    if torch.compiler.is_compiling():
        return operator(*p)[0]  # one node in the graph
    loss: Tensor = _Differentiable.apply(operator, p.student, p[1:])[0]
    return loss
