"""The fused multi-teacher distillation loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edufast.ops._arguments import (
    check_given_weights,
    choice,
    class_slices,
    moved,
    rows_of,
    teachers_of,
    tensor,
)
from edufast.ops._autograd import (
    FusedLoss,
    differentiable_loss,
    gradient_dtype,
    loss_and_gradient,
    loss_dtype,
)
from edufast.ops._library import register
from edufast.ops._numbers import Number, number, one_for_each_teacher, packed
from edufast.ops._soft_labels import SoftLabels, are_soft, depends_on_classes
from edufast.ops.backends import select_backend
from edufast.ops.reference.kd_loss import NO_FLOATS, REDUCTIONS, KDLoss, Numbers, reference
from edufast.ops.reference.kd_loss_divergences import DEFAULT_PARAMS, DIVERGENCES
from edufast.ops.reference.kd_loss_weights import WEIGHTINGS
from edufast.ops.slices import INTEGERS, ClassSlices, Slice
from edufast.utils._torch_private import Operator, as_constant
from edufast.utils.numbers import whole_number

# --- the operators ------------------------------------------------------------------------------


def empty_results(p: KDLoss) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss, gradient and gradients of the teachers, not yet computed."""
    shape = (p.student.shape[0],) if p.reduction == REDUCTIONS["none"] else ()
    loss = p.student.new_empty(shape, dtype=loss_dtype(p.student))
    grad = p.student.new_empty(p.student.shape, dtype=gradient_dtype(p.student))
    wanted = p.teachers if p.teacher_grad else []
    return loss, grad, [t.new_empty(t.shape, dtype=gradient_dtype(t)) for t in wanted]


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    p = KDLoss(*arguments)
    p.check()
    return empty_results(p)


def register_kd_loss(operator: Operator) -> None:
    """Shapes and autograd of an operator with kd_loss's schema."""

    def differentiable(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        p = KDLoss(*arguments)
        loss, grad, *teacher_grads = FusedLoss.apply(operator, p, False, p.student, *p.teachers)
        return loss, grad, teacher_grads

    register(operator, _fake, differentiable)


register_kd_loss(torch.ops.edufast.kd_loss.default)


def _fused(backend: str) -> Operator:
    """The operator of a fused backend; "cpp" and "cuda" are one operator on two devices."""
    if backend == "triton":
        from edufast.kernels.kd_loss import kd_loss as triton_kd_loss

        return triton_kd_loss
    operator: Operator = torch.ops.edufast.kd_loss.default
    return operator


# --- public functions ---------------------------------------------------------------------------

GIVEN = WEIGHTINGS["given"]  # by a tensor of weights
NAMED = {name: code for name, code in WEIGHTINGS.items() if code != GIVEN}


def kd_loss(
    student: Tensor,
    teachers: Sequence[Tensor] | Tensor,
    labels: Tensor | None,
    *,
    slices: Sequence[Slice] | ClassSlices | None = None,
    temperature: Number | Sequence[Number] = 4.0,
    alpha: Number = 0.3,
    weighting: str | Tensor | Sequence[float] = "mean",
    divergence: str = "forward_kl",
    divergence_params: Sequence[Number] | None = None,
    label_smoothing: Number = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    teacher_grad: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Cross-entropy plus softened divergence from K teachers, loss and gradient in one pass.

    ``alpha * CE(student, labels) + (1 - alpha) * sum_k w_k * T_k^2 * D(teacher_k, student[S_k])``

    Args:
        student: logits (B, C); float32, bfloat16, float16 (float64 for checking), any strides. B
            here and below may be any number of dimensions: (C,), (tokens, C), (B, tokens, C).
        teachers: K logit tensors (B, C_k), 1 <= K <= 32, each with its own float dtype and
            strides; or a tensor of one teacher.
        labels: (B,) integers in [0, C) or ``ignore_index``; or (B, C) probabilities of a float
            type (mixup), constants for the gradient, for weightings and divergences that need no
            class: no "routed", "confidence" or "dkd". None where nothing depends on them: ``alpha``
            is 0, and again none of these three.
        slices: K class slices S_k: ``(start, stop)``, ``range``, list or index tensor; a
            :class:`ClassSlices` prepared once saves the checks; None: every teacher knows all C.
        temperature: T, or K of them; from 1e-18 to 1e18. T^2 multiplies the divergence (Hinton et
            al. 2015). This and the other numbers may be tensors without dimensions (T also
            (K,)), constants for the gradient: on the CPU, where they are read and checked, or on
            the student's device, where nobody waits for them and one out of range makes the loss
            NaN. In a compiled graph they may change from call to call.
        alpha: weight of the cross-entropy, in [0, 1].
        weighting: "mean" (1/K, sums to 1), "routed" (1 for the teacher whose slice holds the label,
            shared equally among several), "entropy" (EBKD, ``(1 - H_k / sum H) / (K - 1)``: sums to
            1), "confidence" (CA-MKD, ``(1 - softmax_k CE_k) / (n - 1)`` over the n teachers that
            know the label: sums to 1), or K numbers, or a tensor (K,) or (B, K). Constants for the
            gradient.
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
    options: dict[str, Any] = dict(
        slices=slices, temperature=temperature, alpha=alpha, weighting=weighting,
        divergence=divergence, divergence_params=divergence_params,
        label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction,
        teacher_grad=teacher_grad,
    )  # fmt: skip
    if are_soft(labels):
        soft = SoftLabels.of(student, labels, options)
        loss = kd_loss(student, teachers, **soft.distillation, backend=backend)
        return soft.cross_entropy(student) + (1 - soft.alpha) * loss
    p = _laid_out(student, teachers, labels, **options)
    name = select_backend(backend, student)
    if name == "reference":
        p.check()
        loss = reference(p)
    else:
        loss = differentiable_loss(_fused(name), p, p.student, *p.teachers)
    return loss.view(student.shape[:-1]) if loss.dim() and student.dim() != 2 else loss


_DEFAULTS: dict[str, Any] = dict(kd_loss.__kwdefaults__ or {})
_DEFAULTS.pop("backend")


def kd_loss_and_grad(
    student: Tensor,
    teachers: Sequence[Tensor] | Tensor,
    labels: Tensor | None,
    *,
    backend: str | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """:func:`kd_loss` and its gradient for the student logits, without going through autograd.

    For loops without autograd's overhead: ``loss, grad = kd_loss_and_grad(logits, ...)`` then
    ``logits.backward(grad)``.

    Args:
        student, teachers, labels, backend: as of :func:`kd_loss`.
        options: the other keywords of :func:`kd_loss`, with a reduction of "mean" or "sum" and no
            ``teacher_grad``.

    Returns:
        The loss, a scalar, and the gradient (B, C) in the student's dtype; float32 for float16,
        where it would underflow.

    Raises:
        ValueError, TypeError: as :func:`kd_loss`.
    """
    options = _all_of(options)
    if are_soft(labels):
        soft = SoftLabels.of(student, labels, options)
        loss, grad = kd_loss_and_grad(student, teachers, **soft.distillation, backend=backend)
        logits = student.detach().to(gradient_dtype(student))
        soft_grad, soft_loss = torch.func.grad_and_value(soft.cross_entropy)(logits)
        return soft_loss + (1 - soft.alpha) * loss, soft_grad + (1 - soft.alpha) * grad
    p = _laid_out(student, teachers, labels, **options)
    if p.reduction == REDUCTIONS["none"] or p.teacher_grad:
        raise ValueError("kd_loss_and_grad needs reduction 'mean' or 'sum' and no teacher_grad")
    name = select_backend(backend, student)
    if name == "reference":
        p.check()
        # torch.func, unlike torch.autograd, is traced by torch.compile.
        both = torch.func.grad_and_value(lambda logits: reference(p._replace(student=logits)))
        grad, loss = both(p.student.detach().to(gradient_dtype(student)))
    else:
        loss, grad = loss_and_gradient(_fused(name), p)
    return loss, grad if student.dim() == 2 else grad.view(student.shape)


def kd_loss_arguments(
    student: Tensor, teachers: Sequence[Tensor], labels: Tensor | None, **options: Any
) -> KDLoss:
    """The operator's arguments from those of :func:`kd_loss` but ``backend``, checked.

    Raises:
        ValueError, TypeError: as :func:`kd_loss`.
    """
    p = _laid_out(student, teachers, labels, **_all_of(options))
    p.check()
    return p


def _all_of(options: dict[str, Any]) -> dict[str, Any]:
    unknown = options.keys() - _DEFAULTS.keys()
    if unknown:
        raise TypeError(
            f"{min(unknown)} is not an argument; expected one of {', '.join(_DEFAULTS)}"
        )
    return {**_DEFAULTS, **options}


def _laid_out(
    student: Tensor,
    teachers: Sequence[Tensor] | Tensor,
    labels: Tensor | None,
    *,
    slices: Sequence[Slice] | ClassSlices | None,
    temperature: Number | Sequence[Number],
    alpha: Number,
    weighting: str | Tensor | Sequence[float],
    divergence: str,
    divergence_params: Sequence[Number] | None,
    label_smoothing: Number,
    ignore_index: int,
    reduction: str,
    teacher_grad: bool,
) -> KDLoss:
    """The operator's arguments, which it will check."""
    tensor("student", student)
    teachers = teachers_of(student, teachers)
    if not teacher_grad:
        teachers = [t.detach() if t.requires_grad else t for t in teachers]
    if labels is None:
        labels, ignore_index = _no_labels(student, alpha, weighting, divergence), -100
    elif tensor("labels", labels).dtype != torch.int64 and labels.dtype in INTEGERS:
        labels = labels.to(torch.int64)
    if isinstance(weighting, (list, tuple)):
        given = [float(number("weighting", w, student)) for w in weighting]
        weighting = torch.tensor(given, device="cpu")
    if isinstance(weighting, Tensor):
        if tensor("weighting", weighting).is_complex():
            raise TypeError(f"weighting has dtype {weighting.dtype}; expected real numbers")
        weighting = moved("weighting", weighting.detach(), student.device).to(torch.float32)
    if student.dim() != 2:
        leading = student.shape[:-1]
        student = rows_of("student", student, leading)
        teachers = [rows_of(f"teachers[{k}]", t, leading) for k, t in enumerate(teachers)]
        labels = rows_of("labels", labels[..., None], leading).squeeze(1)
        if isinstance(weighting, Tensor) and weighting.dim() > 1:
            weighting = rows_of("weighting", weighting, leading)

    if torch.compiler.is_compiling() and isinstance(ignore_index, int):
        ignore_index = as_constant(ignore_index)  # torch (2.14) errs in what is made of a float
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
        ignore_index = whole_number("ignore_index", ignore_index, least=-(2**63))
    if not isinstance(teacher_grad, bool):
        raise TypeError(f"teacher_grad is {teacher_grad!r}; expected True or False")
    divergence_number = choice("divergence", divergence, DIVERGENCES)
    weights = None
    if isinstance(weighting, Tensor):
        weights = weighting
        check_given_weights("weighting", weights, student, len(teachers))
    params = DEFAULT_PARAMS[divergence] if divergence_params is None else divergence_params
    if not isinstance(params, (list, tuple)):
        raise TypeError(f"divergence_params is {params!r}; expected a tuple of numbers, or None")
    classes = class_slices(slices, student, teachers)
    numbers = Numbers(
        one_for_each_teacher(temperature, len(teachers), student),
        number("alpha", alpha, student),
        number("label_smoothing", label_smoothing, student),
        [number(f"divergence_params[{i}]", x, student) for i, x in enumerate(params)],
    )
    numbers_tensor = packed(numbers.row(), student)
    if numbers_tensor is not None:
        numbers.check(len(teachers), divergence)
        numbers = NO_FLOATS
    floats: dict[str, Any] = numbers._asdict()
    return KDLoss(
        student=student,
        teachers=teachers,
        labels=labels,
        weights=weights,
        columns=list(classes.columns),
        starts=list(classes.starts),
        weighting=GIVEN if weights is not None else choice("weighting", weighting, NAMED),
        divergence=divergence_number,
        ignore_index=ignore_index,
        reduction=choice("reduction", reduction, REDUCTIONS),
        teacher_grad=teacher_grad,
        **floats,
        numbers=numbers_tensor,
    )


def _no_labels(student: Tensor, alpha: Number, weighting: Any, divergence: str) -> Tensor:
    """Labels of any class, for a loss that does not depend on them."""
    if isinstance(alpha, Tensor) or alpha != 0 or depends_on_classes(weighting, divergence):
        raise ValueError(
            "labels is None; expected labels unless alpha is 0 and neither weighting ('routed', "
            "'confidence') nor divergence ('dkd') depend on them"
        )
    return torch.zeros(student.shape[:-1], dtype=torch.int64, device=student.device)
