"""Autograd of the fused losses, whose forward pass has already computed the gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from edufast.ops._arguments import check_float
from edufast.ops._library import checked, register
from edufast.utils._torch_private import (
    Operator,
    below_autograd,
    graph_is_kept,
    has_kernel,
    is_transformed,
    is_transforming,
)


class FusedLoss(torch.autograd.Function):
    """A fused loss: ``apply(operator, arguments, owned, *inputs)`` gives it and its gradients.

    Called directly: the machinery of ``torch.library.register_autograd`` takes longer than a small
    problem's loss.

    Args:
        operator: returns the loss, its gradient for the first of ``inputs``, and, if it has them, a
            list of the gradients for the others.
        arguments: of the operator, ``inputs`` among them.
        owned: whether nothing else uses the gradients: the backward pass may then overwrite them.
        inputs: what the loss is differentiated with respect to.
    """

    @staticmethod
    def forward(
        ctx: Any, operator: Operator, arguments: Arguments, owned: bool, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        with below_autograd():
            loss, grad, *others = operator(*arguments)
        grads = (grad, *itertools.chain(*others))
        ctx.save_for_backward(*grads)
        ctx.mark_non_differentiable(*grads)
        ctx.set_materialize_grads(False)
        ctx.operator = operator
        ctx.owned = owned
        ctx.dtypes = [x.dtype for x in inputs]
        return loss, *grads

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(
            "the fused backends have no forward-mode derivative; use backend='reference'"
        )

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            name = ctx.operator.name().removeprefix("edufast::").removesuffix("_triton")
            raise RuntimeError(
                f"{name} has no second derivative in its fused backends (create_graph=True); "
                "use backend='reference'"
            )
        grads: list[Tensor | None] = [None] * len(ctx.dtypes)
        if d_loss is not None:
            for i, grad in enumerate(ctx.saved_tensors):
                grads[i] = _times(grad, d_loss, ctx.owned).to(ctx.dtypes[i])
        return (None, None, None, *grads)


def _scale_(x: Tensor, factor: Tensor) -> None:
    if factor.dim() or factor.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(
            f"factor has shape {tuple(factor.shape)} and dtype {factor.dtype}; expected float32 or "
            "float64 without dimensions"
        )
    check_float("x", x)
    x.mul_(factor)


register(torch.ops.edufast.scale_.default, lambda x, factor: None, cpu=_scale_)
# Only builds with the CUDA backend have its kernel for GPUs.
_HAS_SCALE = has_kernel("edufast::scale_", "CUDA")


def _times(grad: Tensor, d_loss: Tensor, owned: bool) -> Tensor:
    """``grad * d_loss``, without a pass over memory if d_loss is 1, as after ``loss.backward()``.

    Where d_loss is 1 a CPU sees it at once; a GPU's kernel does, which then leaves the gradient as
    it is. A kept graph will need ``grad`` again, while its receiver may change it: it is copied.
    """
    # Not while tracing, where the product can be fused with what follows.
    plain = type(d_loss) is Tensor and not is_transformed(d_loss)
    if owned and plain and d_loss.dim() == 0 and not graph_is_kept():
        if d_loss.device.type == "cpu" and d_loss.item() == 1:
            return grad
        if d_loss.is_cuda and _HAS_SCALE:
            torch.ops.edufast.scale_(grad, d_loss)
            return grad
    return grad * (d_loss[:, None] if d_loss.dim() else d_loss)


class Arguments(Protocol):
    """Of an operator."""

    def __iter__(self) -> Iterator[Any]: ...
    def check(self) -> None: ...


def differentiable_loss(operator: Operator, arguments: Arguments, *inputs: Tensor) -> Tensor:
    """The loss of a fused operator, differentiable for ``inputs``; see :class:`FusedLoss`."""
    if torch.compiler.is_compiling():
        arguments.check()
        traced: Tensor = operator(*arguments)[0]  # one node in the graph
        return traced
    loss: Tensor = _explained(arguments, FusedLoss.apply, operator, arguments, True, *inputs)[0]
    return loss


def loss_and_gradient(operator: Operator, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Loss and first gradient of a fused operator, without autograd's bookkeeping."""
    if torch.compiler.is_compiling():
        arguments.check()
        with torch.no_grad():
            loss, grad, *_ = operator(*arguments)
    else:
        with below_autograd():
            loss, grad, *_ = _explained(arguments, operator, *arguments)
    return loss, grad


def _explained(arguments: Arguments, call: Callable[..., Any], *rest: Any) -> Any:
    """``call(*rest)`` of an operator; what it refuses is an error as of ``arguments.check()``.

    The operator has the same checks. In Python they take as long as a small problem's loss, and
    are therefore asked only where something is wrong.
    """
    try:
        return checked(call, *rest)
    except (ValueError, RuntimeError):
        if is_transforming():
            raise
        try:
            arguments.check()
        except (ValueError, TypeError) as error:
            raise error from None
        raise


def loss_dtype(student: Tensor) -> torch.dtype:
    """Of a loss: float32, and float64 for float64 logits."""
    return torch.float64 if student.dtype == torch.float64 else torch.float32


def gradient_dtype(logits: Tensor) -> torch.dtype:
    """Of a gradient as the fused operators return it: the logits', but float32 for float16.

    Divided by the batch, a float16 gradient would underflow before a gradient scaler reaches it.
    """
    return torch.float32 if logits.dtype == torch.float16 else logits.dtype
