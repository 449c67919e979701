"""Everything that reaches into torch's private modules: the places a new release may break."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any, ParamSpec, TypeAlias, TypeVar

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
    """Whether Python may look at the numbers: nothing is traced and no device has to be awaited."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is None  # make_fx
    )


def is_transforming() -> bool:
    """Whether this is called by a function that torch.func transforms."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_transformed(*arguments: Any) -> bool:
    """Whether an argument, or a tensor in a list of them, is what torch.func transforms, or one of
    the batches of gradients that ``torch.autograd.grad(is_grads_batched=True)`` hands on."""
    functorch = torch._C._functorch
    return any(
        is_transformed(*x)
        if isinstance(x, (list, tuple))
        else functorch.is_functorch_wrapped_tensor(x) or functorch.is_legacy_batchedtensor(x)
        for x in arguments
        if isinstance(x, (list, tuple, Tensor))
    )


def in_forward_mode() -> bool:
    """Whether tensors may have tangents, which forward-mode derivatives are computed with."""
    return torch.autograd.forward_ad._current_level >= 0


def has_tangent(x: Tensor) -> bool:
    """Of forward mode, or of a transform by torch.func."""
    return is_transformed(x) or torch.autograd.forward_ad.unpack_dual(x).tangent is not None


def is_constant(x: Any) -> bool:
    """Within code that torch.compile traces: whether the graph has the number as a constant."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(x)


def as_constant(x: float) -> float:
    """Within code that torch.compile traces: ``x`` as a constant, for which alone the graph is."""
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    constant: float = guard_scalar(x)
    return constant


def with_own_code(function: Callable[P, T]) -> Callable[P, T]:
    """A copy of a Python function that torch.compile takes for another.

    Dynamo counts recompilations by code object and gives up at the eighth; a copy begins at zero.
    """
    assert isinstance(function, FunctionType)
    code, scope = function.__code__.replace(), function.__globals__
    return FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)


def is_hooked(module: torch.nn.Module) -> bool:
    """Whether a call runs more than the forward of its class: hooks, as pruning's and spectral
    norm's, which make the weight, or a forward of its own."""
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


def fresh_compiler_cache() -> AbstractContextManager[Any]:
    """Within it nothing is found that was compiled earlier or elsewhere."""
    from torch._inductor.utils import fresh_cache

    cache: AbstractContextManager[Any] = fresh_cache()
    return cache
