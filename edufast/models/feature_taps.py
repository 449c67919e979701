"""Features of any model, read by hooks while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from edufast.utils.errors import UserError, one_line
from edufast.utils.modes import eval_mode, out_of_inference_mode

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)  # exactly these: subclasses move axes


@dataclass(frozen=True)
class _Tap:
    """The input or output of a leaf module, of ``shape`` for one image."""

    module: str
    into: bool
    shape: tuple[int, ...]


class FeatureTaps:
    """Records features of a model: ``with taps: model(images)``, then ``taps.features``.

    They are found by one run on black images: for each number of locations (pixels or tokens) above
    one, the last input or output of a layer, in the order of the model; then the embedding, which
    is the input of the last linear layer or 1x1 convolution. Layers are modules without children
    that have weights, pool or flatten; a tensor that only functions use is not found, and the last
    one of its size that is a layer's stands for it. The images themselves are not a feature. Of
    several runs within one ``with`` the last one counts.

    Args:
        model: any module of one tensor of images; its state is not changed.
        input_size: shape of one image.

    Attributes:
        names: paths of the modules.
        shapes: without the batch: (C, H, W) of a map, (N, C) of tokens, (C,) of the embedding.
        features: of the last run: (B, C, H, W) or (B, N, C), then (B, C). Maps of models that keep
            channels last, such as Swin transformers, are permuted.

    Raises:
        UserError: the model has no linear layer that reads an embedding, or the run fails.
    """

    def __init__(self, model: nn.Module, input_size: Sequence[int]) -> None:
        self._modules = dict(model.named_modules())
        self._taps = self._find(model, input_size)
        self._recorded: dict[_Tap, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        self.names = [tap.module for tap in self._taps]
        *maps, embedding = self._taps
        self.shapes = [*(tap.shape for tap in maps), _pooled_shape(embedding.shape)]

    def __enter__(self) -> FeatureTaps:
        for tap in self._taps:
            self._handles.append(_register(self._modules[tap.module], tap.into, self._record(tap)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @property
    def features(self) -> list[Tensor]:
        *maps, embedding = (out_of_inference_mode(self._recorded[tap]) for tap in self._taps)
        return [*maps, pooled(embedding)]

    def _record(self, tap: _Tap) -> Callable[[nn.Module, Tensor], None]:
        def hook(module: nn.Module, x: Tensor) -> None:
            x = _arranged(module, x)
            if tuple(x.shape[1:]) == tap.shape:  # a module may be called with other sizes, too
                self._recorded[tap] = x

        return hook

    @torch.no_grad()
    def _find(self, model: nn.Module, input_size: Sequence[int]) -> list[_Tap]:
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        images = torch.zeros(2, *input_size, dtype=like.dtype, device=like.device)
        seen: list[_Tap] = []
        permuted: list[Tensor] = []  # channels last; kept alive to be recognised by identity

        def note(name: str, into: bool) -> Callable[[nn.Module, Tensor], None]:
            def hook(module: nn.Module, x: Tensor) -> None:
                batch = 2 <= x.dim() <= 4 and len(x) == len(images) and x.is_floating_point()
                if not batch or x is images:
                    return
                arranged = _arranged(module, x)
                if arranged is not x:
                    permuted.append(x)
                elif any(x is other for other in permuted):  # the channel axis is unknown
                    return
                seen.append(_Tap(name, into, tuple(arranged.shape[1:])))

            return hook

        leaves = [(name, module) for name, module in self._modules.items() if _is_layer(module)]
        handles = [_register(m, into, note(n, into)) for n, m in leaves for into in (True, False)]
        try:
            with eval_mode(model):
                model(images)
        except Exception as error:
            raise UserError(
                f"{type(model).__name__} fails on images of {tuple(input_size)}: {one_line(error)}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        readers = [tap for tap in seen if tap.into and _classifies(self._modules[tap.module])]
        if not readers:
            raise UserError(
                f"{type(model).__name__} has no nn.Linear or 1x1 nn.Conv2d that reads an embedding"
            )
        end = len(seen) - seen[::-1].index(readers[-1])
        last: dict[int, _Tap] = {}
        for tap in seen[:end]:
            locations = math.prod(tap.shape[1:] if len(tap.shape) == 3 else tap.shape[:-1])
            if locations > 1:
                last.pop(locations, None)  # to keep the order of the last tensors
                last[locations] = tap
        return [*last.values(), readers[-1]]


def pooled(x: Tensor) -> Tensor:
    """Maps (B, C, H, W) and tokens (B, N, C) averaged over their locations: (B, C)."""
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1) if x.dim() == 3 else x


def _pooled_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] if len(shape) == 3 else shape[-1:]


def _arranged(module: nn.Module, x: Tensor) -> Tensor:
    return x.movedim(-1, 1) if x.dim() == 4 and type(module) in _CHANNELS_LAST else x


def _is_layer(module: nn.Module) -> bool:
    if next(module.children(), None) is not None:
        return False
    weights = (
        next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
    )
    return weights or any(word in type(module).__name__ for word in ("Pool", "Flatten"))


def _classifies(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}
    return isinstance(module, nn.Linear) or pointwise


def _register(
    module: nn.Module, into: bool, hook: Callable[[nn.Module, Tensor], None]
) -> RemovableHandle:
    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            hook(module, args[0])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            hook(module, output)

    if into:
        return module.register_forward_pre_hook(before)
    return module.register_forward_hook(after)
