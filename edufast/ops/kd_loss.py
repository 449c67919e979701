"""The fused multi-teacher distillation loss: dispatch, autograd, public functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from edufast.ops import _library  # noqa: F401  (registers torch.ops.edufast)
from edufast.ops.backends import select_backend
from edufast.ops.kd_loss_reference import (
    DEFAULT_PARAMS,
    DIVERGENCES,
    REDUCTIONS,
    WEIGHTINGS,
    Problem,
    reference,
)
from edufast.ops.slices import ClassSlices, Slice

_Operator: TypeAlias = torch._ops.OpOverload

# --- autograd of the fused operators --------------------------------------------------------


class _Differentiable(torch.autograd.Function):
    """A fused operator, whose forward pass has already computed the gradients.

    Called directly: the machinery of ``torch.library.register_autograd`` takes longer than a small
    problem's loss.
    """

    @staticmethod
    def forward(
        ctx: Any, operator: _Operator, rest: tuple[Any, ...], student: Tensor, *teachers: Tensor
    ) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            loss, grad, teacher_grads = operator(student, teachers, *rest)
        ctx.save_for_backward(grad, *teacher_grads)
        ctx.mark_non_differentiable(grad, *teacher_grads)
        ctx.set_materialize_grads(False)
        ctx.dtypes = [t.dtype for t in (student, *teachers)]
        return loss, grad, *teacher_grads

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "kd_loss has no second derivative in its fused backends (create_graph=True); "
                "use backend='reference'"
            )
        inputs = len(ctx.dtypes)
        grads: list[Tensor | None] = [None] * inputs
        if d_loss is not None:
            for i, grad in enumerate(ctx.saved_tensors):
                grads[i] = _times(grad, d_loss).to(ctx.dtypes[i])
        return (None, None, *grads)


def _times(grad: Tensor, d_loss: Tensor) -> Tensor:
    """``grad * d_loss``, without the pass over memory where ``loss.backward()`` began on the CPU.

    A kept graph will need ``grad`` again, while its receiver may change it: then it is copied.
    """
    if (
        type(d_loss) is Tensor  # not while tracing
        and d_loss.device.type == "cpu"
        and d_loss.dim() == 0
        and d_loss.item() == 1
        and not torch._C._autograd._get_current_graph_task_keep_graph()
    ):
        return grad
    return grad * (d_loss[:, None] if d_loss.dim() else d_loss)


def _fake(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    p = Problem(*args)
    rows = p.student.shape[0]
    loss_dtype = torch.float64 if p.student.dtype == torch.float64 else torch.float32
    loss = p.student.new_empty(
        (rows,) if p.reduction == REDUCTIONS["none"] else (), dtype=loss_dtype
    )
    grad = p.student.new_empty(p.student.shape, dtype=_stored(p.student))
    wanted = p.teachers if p.teacher_grad else []
    return loss, grad, [t.new_empty(t.shape, dtype=_stored(t)) for t in wanted]


def _stored(t: Tensor) -> torch.dtype:
    """fp16 gradients wait in fp32 for the upstream gradient; see csrc/ops.cpp."""
    return torch.float32 if t.dtype == torch.float16 else t.dtype


def register(operator: _Operator) -> None:
    """Shapes and autograd of an operator ``torch.ops.edufast.*`` with kd_loss's schema."""

    def differentiable(*args: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        p = Problem(*args)
        loss, grad, *teacher_grads = _Differentiable.apply(
            operator, tuple(p[2:]), p.student, *p.teachers
        )
        return loss, grad, teacher_grads

    torch.library.register_fake(operator.name(), _fake)
    _LIBRARY.impl(operator.name(), differentiable, "Autograd")


_LIBRARY = torch.library.Library("edufast", "FRAGMENT")
register(torch.ops.edufast.kd_loss.default)


def _fused(name: str) -> _Operator:
    """The operator of a fused backend; "cpp" and "cuda" are one operator on two devices."""
    if name == "triton":
        from edufast.kernels.kd_loss import kd_loss as triton_kd_loss

        return triton_kd_loss
    return torch.ops.edufast.kd_loss.default


# --- public functions -------------------------------------------------------------------------


def kd_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    labels: Tensor,
    *,
    slices: Sequence[Slice] | ClassSlices | None = None,
    temperature: float | Sequence[float] = 4.0,
    alpha: float = 0.3,
    weighting: str | Tensor = "mean",
    divergence: str = "forward_kl",
    divergence_params: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    teacher_grad: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Cross-entropy plus softened divergence from K teachers, loss and gradient in one pass.

    ``alpha * CE(student, labels) + (1 - alpha) * sum_k w_k * T_k^2 * D(teacher_k, student[S_k])``

    Args:
        student: logits (B, C); float32, bfloat16, float16 (float64 for checking), any strides.
        teachers: K >= 1 logit tensors (B, C_k), each with its own float dtype and strides.
        labels: (B,) int64 in [0, C) or ``ignore_index``.
        slices: K class slices S_k: ``(start, stop)``, ``range``, list or index tensor; a
            :class:`ClassSlices` prepared once saves the checks; None: every teacher knows all C.
        temperature: T, or K of them; above 0. T^2 multiplies the divergence (Hinton et al. 2015).
        alpha: weight of the cross-entropy, in [0, 1].
        weighting: "mean" (1/K, sums to 1), "routed" (1 for the teacher whose slice holds the label,
            shared equally among several), "entropy" (EBKD, ``(1 - H_k / sum H) / (K - 1)``: sums to
            1), "confidence" (CA-MKD, ``(1 - softmax_k CE_k) / (n - 1)`` over the n teachers that
            know the label: sums to 1), or a tensor (K,) or (B, K). Constants for the gradient.
        divergence: "forward_kl" KL(teacher || student), "reverse_kl" KL(student || teacher),
            "js" with beta, "dkd" (Zhao et al. 2022).
        divergence_params: js: (beta,), default (0.5,): ``beta KL(q||m) + (1-beta) KL(p||m)`` with
            teacher q, student p, ``m = beta q + (1-beta) p``; dkd: weights of the target and the
            non-target term, default (1, 8).
        label_smoothing: of the cross-entropy, over all C classes, in [0, 1).
        ignore_index: rows with this label contribute nothing.
        reduction: "mean" over the rows not ignored (0 if there is none), "sum", or "none": (B,).
        teacher_grad: let gradients flow into teachers that require them.
        backend: "reference", "cpp", "cuda", "triton"; None: the fastest measured for the device
            (see :func:`edufast.ops.select_backend`).

    Returns:
        The loss, float32 (float64 for float64 logits).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: second derivative asked of a fused backend.
    """
    p, name = _problem(
        student, teachers, labels, slices, temperature, alpha, weighting, divergence,
        divergence_params, label_smoothing, ignore_index, reduction, teacher_grad, backend,
    )  # fmt: skip
    if name == "reference":
        return reference(p)
    operator = _fused(name)
    if torch.compiler.is_compiling():
        return operator(*p)[0]  # one node in the graph
    loss: Tensor = _Differentiable.apply(operator, p[2:], p.student, *p.teachers)[0]
    return loss


_DEFAULTS: dict[str, Any] = dict(kd_loss.__kwdefaults__ or {})


def kd_loss_and_grad(
    student: Tensor, teachers: Sequence[Tensor], labels: Tensor, **arguments: Any
) -> tuple[Tensor, Tensor]:
    """:func:`kd_loss` and its gradient for the student logits, without going through autograd.

    For loops that want no bookkeeping: ``loss, grad = kd_loss_and_grad(logits, ...)`` then
    ``logits.backward(grad)``. Arguments are those of :func:`kd_loss`, with a reduction of "mean" or
    "sum" and no ``teacher_grad``. The gradient is (B, C) in the student's dtype, float32 for
    float16, where it would underflow.
    """
    p, name = _problem(student, teachers, labels, **{**_DEFAULTS, **arguments})
    if p.reduction == REDUCTIONS["none"] or p.teacher_grad:
        raise ValueError("kd_loss_and_grad needs reduction 'mean' or 'sum' and no teacher_grad")
    if name == "reference":
        with torch.enable_grad():
            leaf = student.detach().to(_stored(student)).requires_grad_()
            loss = reference(p._replace(student=leaf))
            return loss.detach(), torch.autograd.grad(loss, leaf)[0]
    with torch._C._AutoDispatchBelowAutograd():
        loss, grad, _ = _fused(name)(*p)
    return loss, grad


def _problem(
    student: Tensor,
    teachers: Sequence[Tensor],
    labels: Tensor,
    slices: Sequence[Slice] | ClassSlices | None,
    temperature: float | Sequence[float],
    alpha: float,
    weighting: str | Tensor,
    divergence: str,
    divergence_params: Sequence[float] | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
    teacher_grad: bool,
    backend: str | None,
) -> tuple[Problem, str]:
    """Check what a user typed and lay it out for the operator."""
    if student.dim() != 2:
        raise ValueError(f"student has shape {tuple(student.shape)}; expected (B, C)")
    teachers = list(teachers)
    if not teachers:
        raise ValueError("teachers is empty; expected at least one tensor of logits (B, C_k)")
    rows, classes = student.shape
    for k, t in enumerate(teachers):
        if t.dim() != 2 or t.shape[0] != rows or t.shape[1] < 1:
            raise ValueError(
                f"teachers[{k}] has shape {tuple(t.shape)}; expected ({rows}, C_k) like student"
            )
        if not t.is_floating_point():
            raise TypeError(f"teachers[{k}] has dtype {t.dtype}; expected a float type")
    if labels.shape != (rows,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and dtype {labels.dtype}; expected ({rows},) "
            "and torch.int64"
        )
    if slices is None:
        slices = ClassSlices((0,) * len(teachers), (), (classes,) * len(teachers))
    elif not isinstance(slices, ClassSlices):
        slices = ClassSlices.of(slices, classes, student.device)
    sizes = tuple(t.shape[1] for t in teachers)
    if len(slices.sizes) != len(teachers) or any(
        have != want for have, want in zip(sizes, slices.sizes, strict=True)
    ):
        raise ValueError(
            f"teachers have {sizes} classes, but slices name {slices.sizes}; expected one slice "
            "for each teacher, with as many classes as it has logits"
        )
    temperatures = (
        [float(temperature)] * len(teachers)
        if isinstance(temperature, (int, float))
        else [float(t) for t in temperature]
    )
    if len(temperatures) != len(teachers) or not all(0 < t < math.inf for t in temperatures):
        raise ValueError(
            f"temperature is {temperature}; expected one finite number above 0, or "
            f"{len(teachers)} of them"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a number in [0, 1]")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing is {label_smoothing}; expected a number in [0, 1)")
    weights = None
    if isinstance(weighting, Tensor):
        if weighting.shape not in ((len(teachers),), (rows, len(teachers))):
            raise ValueError(
                f"weighting has shape {tuple(weighting.shape)}; expected ({len(teachers)},) or "
                f"({rows}, {len(teachers)})"
            )
        weights, weighting = weighting.detach().to(student.device, torch.float32), "given"
    elif weighting == "given":
        raise ValueError("weighting is 'given'; pass the tensor of weights itself")
    params = DEFAULT_PARAMS[_choice("divergence", divergence, DIVERGENCES)]
    if divergence_params is not None:
        if len(divergence_params) != len(params):
            raise ValueError(
                f"divergence_params has {len(divergence_params)} numbers; {divergence} takes "
                f"{len(params)}"
            )
        params = tuple(float(x) for x in divergence_params)
    if divergence == "js" and not 0 < params[0] < 1:
        raise ValueError(f"divergence_params of js is {params}; expected 0 < beta < 1")
    name = select_backend(backend, student)
    problem = Problem(
        student,
        teachers,
        labels,
        weights,
        list(slices.columns),
        list(slices.starts),
        temperatures,
        float(alpha),
        WEIGHTINGS[_choice("weighting", weighting, WEIGHTINGS)],
        DIVERGENCES[divergence],
        list(params),
        float(label_smoothing),
        ignore_index,
        REDUCTIONS[_choice("reduction", reduction, REDUCTIONS)],
        teacher_grad,
    )
    return problem, name


def _choice(name: str, value: str, choices: dict[str, int]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")
    return value
