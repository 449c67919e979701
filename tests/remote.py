"""A GPU's part where there is none: tensors nobody may wait for, and transfers that are listed."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

_aten = torch.ops.aten
# What a GPU is waited for: for numbers, and for shapes that depend on numbers.
_WAITS = {
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
}
_BY_MASK = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
_READS = {Tensor.cpu, Tensor.numpy, Tensor.tolist}


class WaitedError(Exception):
    """An operation would have waited for the device."""


class Remote(Tensor):
    """``held`` as if it were on a GPU: what is computed is right, but nobody may look at it.

    Its device is that of ``held``, so that it goes together with ordinary tensors.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Remote:
        remote: Remote = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            dtype=held.dtype,
            device=held.device,
            requires_grad=held.requires_grad,
        )
        remote.held = held
        return remote

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _READS:
            raise WaitedError(function.__name__)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in _WAITS or (function in _BY_MASK and _has_mask(args[1])):
            raise WaitedError(str(function))
        args, kwargs = tree_map_only(Remote, lambda t: t.held, (args, kwargs or {}))
        found = function(*args, **kwargs)
        return tree_map_only(Tensor, Remote, found)


def _has_mask(indices: list[Tensor | None]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)


class Transfer(NamedTuple):
    """A copy to a GPU: without waiting if both are true."""

    pinned: bool
    non_blocking: bool


class Transfers(TorchFunctionMode):
    """Within the block, lists the copies to a GPU instead of making them."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Transfer] = []
        self._pinned: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.pin_memory:
            self._pinned.append(args[0].clone())
            return self._pinned[-1]
        target = kwargs.get("device", args[1] if len(args) > 1 else None)
        if function is Tensor.to and torch.device(target).type == "cuda":
            pinned = any(args[0] is tensor for tensor in self._pinned)
            self.made.append(Transfer(pinned, kwargs.get("non_blocking", False)))
            return args[0]
        return function(*args, **kwargs)
