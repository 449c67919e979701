"""Functions of tensors that a GPU runs as one graph.

Small networks keep a GPU waiting for the host, which launches hundreds of kernels a step, several
microseconds each. A captured CUDA graph is launched at once. (PyTorch's own helpers capture less:
make_graphed_callables no optimiser, torch.compile's "reduce-overhead" only what it compiled.)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from edufast.utils.errors import UserError, one_line

DEVICES = ("cuda",)  # types of devices that have graphs
_WARM_UP = 2  # calls that let libraries choose their kernels, and allocate what they keep


class Replays:
    """Replays of one function: ``replays(function, *arguments)``.

    The first two calls with arguments of the same kind are made; the third is captured, and those
    after it are replayed. What the function does in Python, apart from computing on tensors,
    does not happen in replays. It computes on copies of its arguments; what it returns is a copy,
    too. Elsewhere than on a GPU every call is made.

    Args:
        what: the function is, for a warning where it cannot be captured, because it waits for the
            device for instance. It is called then, as before.
        device: where it computes; None: it is not to be captured.
    """

    def __init__(self, what: str, device: torch.device | None) -> None:
        self._what = what
        self._able = device is not None and device.type in DEVICES
        self.forget()

    def forget(self) -> None:
        """Begin again with calls: something has changed that is not among the arguments."""
        self._kind: Any = None
        self._calls = 0
        self._replay: Callable[[], None] | None = None
        self._arguments: tuple[Any, ...] = ()
        self._result: Tensor | None = None

    def __call__(self, function: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """What ``function`` returns for ``arguments``: tensors on a GPU, lists and tuples of them,
        and other values. The function is always the same, and returns a tensor."""
        if not self._able:
            return function(*arguments)
        kind = _kind(arguments)
        if kind != self._kind:
            self.forget()
            self._kind = kind
        if self._replay is None and self._calls >= _WARM_UP:
            self._capture(function, arguments)
        if self._replay is None:
            self._calls += 1
            return function(*arguments)
        for own, given in zip(_tensors(self._arguments), _tensors(arguments), strict=True):
            own.copy_(given)
        self._replay()
        assert self._result is not None
        return self._result.clone()

    def _capture(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        own = _copied(arguments)
        try:
            self._replay, self._result = capture(function, own)
        except (RuntimeError, UserError) as error:
            self._able = False
            warnings.warn(
                f"{self._what} is launched kernel by kernel, not as a CUDA graph: "
                f"{one_line(error)}",
                stacklevel=3,
            )
        else:
            self._arguments = own


def capture(
    function: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> tuple[Callable[[], None], Tensor]:
    """What replays a call of ``function``, and the tensor that has its result after each replay."""
    graph = torch.cuda.CUDAGraph()
    # Of another GPU than the current one nothing would be captured. Threads that decode images may
    # use it meanwhile.
    with (
        torch.cuda.device(next(_tensors(arguments)).device),
        torch.cuda.graph(graph, capture_error_mode="thread_local"),
    ):
        result = function(*arguments)
    return graph.replay, result


def _kind(value: Any) -> Any:
    """What a graph depends on: all but the numbers in tensors."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.device
    if isinstance(value, (list, tuple)):
        return [_kind(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str, slice)):
        return value
    return id(value)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if not isinstance(value, (list, tuple)):
        return value
    items = [_copied(item) for item in value]
    make = getattr(type(value), "_make", type(value))  # of a NamedTuple
    return make(items)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
