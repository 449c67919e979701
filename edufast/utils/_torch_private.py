"""Everything that reaches into torch's private modules: the places a new release may break."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")
Operator: TypeAlias = torch._ops.OpOverload


def schema_of(operator: Operator) -> str:
    """An operator's arguments and results, without its name."""
    return str(operator._schema).removeprefix(operator.name())


def has_kernel(operator: str, dispatch_key: str) -> bool:
    """Whether ``operator`` ("edufast::name") has a kernel registered for "CPU", "CUDA" ..."""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(operator, dispatch_key))


def below_autograd() -> AbstractContextManager[None]:
    """Operators called within go past autograd: to their kernels, or to FakeTensorMode."""
    guard: AbstractContextManager[None] = torch._C._AutoDispatchBelowAutograd()
    return guard


def below_in_place() -> AbstractContextManager[None]:
    """As :func:`below_autograd`, and past the bookkeeping of in-place operators, too."""
    guard: AbstractContextManager[None] = torch._C._AutoDispatchBelowADInplaceOrView()
    return guard


def redispatch_below_in_place(operator: Operator, keyset: Any, *arguments: Any) -> Any:
    """From a kernel for ADInplaceOrView, which got ``keyset``: call the next kernel."""
    return operator.redispatch(keyset & torch._C._after_ADInplaceOrView_keyset, *arguments)


def graph_is_kept() -> bool:
    """Within a backward pass: whether it may be run again (``retain_graph=True``)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def values_are_at_hand(x: Tensor) -> bool:
    """Whether Python may read the values: nothing is traced, and no device has to be waited for."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is None  # make_fx
    )


def is_transforming() -> bool:
    """Whether the caller is inside a torch.func transform."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_transformed(*arguments: Any) -> bool:
    """Whether an argument, or a tensor in a list of them, is wrapped by a torch.func transform, or
    is a batch of gradients of ``torch.autograd.grad(is_grads_batched=True)``."""
    functorch = torch._C._functorch
    return any(
        is_transformed(*x)
        if isinstance(x, (list, tuple))
        else functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x)
        for x in arguments
        if isinstance(x, (list, tuple, Tensor))
    )


def in_forward_mode() -> bool:
    """Whether forward-mode differentiation is on, so that tensors may have tangents."""
    return torch.autograd.forward_ad._current_level >= 0


def has_tangent(x: Tensor) -> bool:
    """Whether ``x`` has a tangent, of forward mode or of a torch.func transform."""
    return is_transformed(x) or torch.autograd.forward_ad.unpack_dual(x).tangent is not None


def is_constant(x: Any) -> bool:
    """In code traced by torch.compile: whether the number is a constant of the graph."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(x)


def as_constant(x: T) -> T:
    """In code traced by torch.compile: the number ``x`` as a constant; the graph is for this value
    only."""
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return cast(T, guard_scalar(cast(Any, x)))


def with_own_code(function: Callable[P, T]) -> Callable[P, T]:
    """A copy of a Python function that torch.compile treats as a different one.

    Dynamo counts recompilations by code object and gives up at the eighth; a copy begins at zero.
    """
    assert isinstance(function, FunctionType)
    code, scope = function.__code__.replace(), function.__globals__
    return FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether a call runs more than the forward of its class: hooks, such as those of pruning and
    spectral norm, which compute the weight, or a forward set on the instance."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def compiler_backend(name: str) -> Callable[..., Any]:
    """A backend of torch.compile, such as "inductor". Takes a second to import."""
    from torch._dynamo import lookup_backend

    backend: Callable[..., Any] = lookup_backend(name)
    return backend


def compiler_error() -> type[Exception]:
    """What torch.compile raises where it cannot compile."""
    from torch._dynamo.exc import TorchDynamoException

    return TorchDynamoException


def why_not_compiled(error: Exception) -> str:
    """The reason in an error of torch.compile, which wraps it and adds pages of advice."""
    inner = getattr(error, "inner_exception", None)
    told = str(error) if inner is None else f"{type(inner).__name__}: {inner}"
    return told.strip().partition("\n")[0]


def fresh_compiler_cache() -> AbstractContextManager[Any]:
    """Within the block, nothing that was compiled before or elsewhere is reused."""
    from torch._inductor.utils import fresh_cache

    cache: AbstractContextManager[Any] = fresh_cache()
    return cache
