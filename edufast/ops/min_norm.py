"""Teacher weights of AEKD (Du et al. 2020): the minimum-norm mixture of the teachers' gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edufast.ops import _library  # noqa: F401  (registers torch.ops.edufast)
from edufast.ops._without_cuda import select_backend_without_cuda
from edufast.ops.kd_loss_reference import _soften
from edufast.ops.slices import ClassSlices, Slice


class Problem(NamedTuple):
    """The validated arguments of the Gram matrix, in the order of the operator's schema."""

    student: Tensor
    teachers: list[Tensor]
    columns: list[Tensor]
    starts: list[int]
    temperatures: list[float]


# --- reference --------------------------------------------------------------------------------


def reference_gram(p: Problem) -> Tensor:
    """(K, K) float64: sums over rows and classes of ``g_i * g_j`` with ``g_k = T_k (p_k - q_k)``.

    ``g_k`` is the gradient of ``T_k^2 KL(teacher_k || student[S_k])`` for the student's logits,
    zero outside the slice S_k. A row that is -inf throughout the slice, on either side, has no
    gradient there; NaN gives NaN.
    """
    dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    slices = ClassSlices(tuple(p.starts), tuple(p.columns), tuple(t.shape[1] for t in p.teachers))
    z = p.student.to(dtype)
    grads = []
    for k, (t, temperature) in enumerate(zip(p.teachers, p.temperatures, strict=True)):
        s, q = _soften(slices.select(z, k), temperature), _soften(t.to(dtype), temperature)
        g = (temperature * (s.p - q.p)).masked_fill((s.empty | q.empty)[:, None], 0)
        if p.columns and p.columns[k].numel():
            index = p.columns[k]
        else:
            index = torch.arange(p.starts[k], p.starts[k] + t.shape[1], device=z.device)
        grads.append(torch.zeros_like(z).index_copy_(1, index, g))
    pairs = [[(a * b).sum(1).double().sum() for b in grads] for a in grads]
    return torch.stack([torch.stack(row) for row in pairs])


# Of the interior-point method; csrc/min_norm.h holds the same. The complementarity falls tenfold
# a step until it is FLOOR: for K up to 32 the squared norm is then minimal to 1e-11 of the largest
# gradient's, with or without a cap, for singular matrices, too (tests/ops/test_min_norm.py).
ITERATIONS = 24
SIGMA = 0.1
FLOOR = 1e-13
TO_BOUNDARY = 0.99
NEGLIGIBLE = 1e-6  # what the method leaves of a weight that should be 0


def reference_weights(gram: Tensor, cap: float) -> Tensor:
    """argmin of ``w' gram w`` with ``sum w = 1`` and ``0 <= w <= cap``, float32 (K,).

    A primal-dual interior-point method with a fixed number of steps: nothing waits for the
    device. Where the minimiser is not unique it tends to the centre of the minimisers: equal
    teachers share their weight equally.
    """
    k = gram.shape[0]
    largest = gram.diagonal().amax()
    g = gram / torch.where(largest > 0, largest, torch.ones_like(largest))
    ones = torch.ones_like(g[0])
    capped = cap < 1
    # Variables that stay positive, x and cap - x, and their multipliers.
    x, z = ones / k, ones
    slack, w = (cap - x, ones) if capped else (ones, torch.zeros_like(ones))
    for _ in range(ITERATIONS):
        mu = (x @ z + slack @ w) / (2 * k if capped else k)
        target = (SIGMA * mu).clamp_min(FLOOR)
        push = target / x - target / slack if capped else target / x
        system = g + torch.diag(z / x + w / slack)
        solution = torch.linalg.solve_ex(system, torch.stack([push - g @ x, ones], 1))[0]
        dx = solution[:, 0] - solution[:, 1] * (solution[:, 0].sum() / solution[:, 1].sum())
        dz = (target - z * dx) / x - z
        values, steps = [x, z], [dx, dz]
        if capped:
            values += [slack, w]
            steps += [-dx, (target + w * dx) / slack - w]
        v, d = torch.stack(values), torch.stack(steps)
        longest = torch.where(d < 0, -v / d, math.inf).amin() * TO_BOUNDARY
        v = v + longest.clamp_max(1.0) * d
        x, z = v[0], v[1]
        if capped:
            slack, w = v[2], v[3]
    x = torch.where(x < NEGLIGIBLE, 0.0, x)
    return (x / x.sum()).clamp_max(cap).float()


# --- dispatch ---------------------------------------------------------------------------------


def _fake_gram(*args: Any) -> Tensor:
    p = Problem(*args)
    k = len(p.teachers)
    return p.student.new_empty((k, k), dtype=torch.float64)


def _fake_weights(gram: Tensor, cap: float) -> Tensor:
    return gram.new_empty(gram.shape[:1], dtype=torch.float32)


def register(gram: torch._ops.OpOverload, weights: torch._ops.OpOverload) -> None:
    """Shapes of operators ``torch.ops.edufast.*`` with these schemas; neither is differentiable."""
    for operator, fake in ((gram, _fake_gram), (weights, _fake_weights)):
        torch.library.register_fake(operator.name(), fake)
        _LIBRARY.impl(operator.name(), torch.library.fallthrough_kernel, "Autograd")


_LIBRARY = torch.library.Library("edufast", "FRAGMENT")
register(torch.ops.edufast.gradient_gram.default, torch.ops.edufast.min_norm_weights.default)


def _weights(p: Problem, cap: float, name: str) -> Tensor:
    if name == "reference":
        return reference_weights(reference_gram(p), cap)
    if name == "triton":
        from edufast.kernels.min_norm import gradient_gram, min_norm_weights

        return min_norm_weights(gradient_gram(*p), cap)
    return torch.ops.edufast.min_norm_weights(torch.ops.edufast.gradient_gram(*p), cap)


# --- public function --------------------------------------------------------------------------


def min_norm_weights(
    student: Tensor,
    teachers: Sequence[Tensor],
    *,
    slices: Sequence[Slice] | ClassSlices | None = None,
    temperature: float | Sequence[float] = 4.0,
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
        temperature: T, or K of them; above 0.
        cap: the tolerance C of the paper, the most that one teacher may weigh, in [1/K, 1]: 1/K is
            the average, None or 1 the unconstrained minimum-norm point.
        backend: "reference", "cpp", "triton"; None: "cpp" on a CPU, "triton" on CUDA.

    Returns:
        (K,) float32, summing to 1; not differentiable. Equal gradients get equal weights; NaN in a
        logit makes every weight NaN.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    teachers = [t.detach() for t in teachers]
    k = len(teachers)
    if student.dim() != 2:
        raise ValueError(f"student has shape {tuple(student.shape)}; expected (B, C)")
    if not 1 <= k <= 32:
        raise ValueError(f"teachers has {k} tensors; expected 1 to 32")
    rows, classes = student.shape
    for i, t in enumerate(teachers):
        if t.dim() != 2 or t.shape[0] != rows or t.shape[1] < 1:
            raise ValueError(
                f"teachers[{i}] has shape {tuple(t.shape)}; expected ({rows}, C_k) like student"
            )
    names = ["student", *(f"teachers[{i}]" for i in range(k))]
    for name, t in zip(names, (student, *teachers), strict=True):
        if not t.is_floating_point():
            raise TypeError(f"{name} has dtype {t.dtype}; expected a float type")
    if slices is None:
        slices = ClassSlices((0,) * k, (), (classes,) * k)
    elif not isinstance(slices, ClassSlices):
        slices = ClassSlices.of(slices, classes, student.device)
    sizes = tuple(t.shape[1] for t in teachers)
    if len(slices.sizes) != k or any(a != b for a, b in zip(sizes, slices.sizes, strict=True)):
        raise ValueError(
            f"teachers have {sizes} classes, but slices name {slices.sizes}; expected one slice "
            "for each teacher, with as many classes as it has logits"
        )
    temperatures = (
        [float(temperature)] * k
        if isinstance(temperature, (int, float))
        else [float(t) for t in temperature]
    )
    if len(temperatures) != k or not all(0 < t < math.inf for t in temperatures):
        raise ValueError(
            f"temperature is {temperature}; expected one finite number above 0, or {k} of them"
        )
    cap = 1.0 if cap is None else float(cap)
    if not 1 / k <= cap * (1 + 1e-9) or cap > 1:
        raise ValueError(f"cap is {cap}; expected a number from 1/K = {1 / k:.4g} to 1")
    name = select_backend_without_cuda(backend, student)
    if cap * k <= 1 + 1e-6:  # a single point is left
        return student.new_full((k,), 1 / k, dtype=torch.float32)
    with torch.no_grad():
        p = Problem(
            student.detach(), teachers, list(slices.columns), list(slices.starts), temperatures
        )
        return _weights(p, cap, name)
