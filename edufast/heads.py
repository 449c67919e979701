"""The temporary head that closes an unfinished student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

Order = Literal["pool_first", "paper"]


class ReferenceHead(nn.Module):
    """Teaching reference head (arXiv 2311.13811): 1x1 conv adapter, norm, global pool, linear.

    Nothing in it bends, so pooling may come first: the same function up to the norm's statistics,
    at about half the cost of a first grade. Both orders have the same state dict.

    Args:
        in_channels: channels of the features.
        width: channels after the adapter. A student takes the ``in_features`` of its classifier,
            so that rows of ``linear`` can move there.
        num_classes: width of the logits.
        order: ``"pool_first"`` or ``"paper"``, which pools last.

    Shapes: features (B, C, H, W), tokens (B, N, C) or vectors (B, C) to logits (B, num_classes).
    The norm is a BatchNorm: in train mode ``"pool_first"`` needs at least two images.

    Raises:
        ValueError: ``order`` is unknown.
    """

    def __init__(
        self, in_channels: int, width: int, num_classes: int, order: Order = "pool_first"
    ) -> None:
        super().__init__()
        check_order(order)
        self.order = order
        self.adapter = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:
            x = x.transpose(1, 2)
        x = x.view(*x.shape, *[1] * (4 - x.dim()))  # tokens and vectors are maps, too
        if self.order == "pool_first":
            x = x.mean((2, 3), keepdim=True)
        return self.linear(self.norm(self.adapter(x)).mean((2, 3)))


def check_order(order: str) -> None:
    if order not in get_args(Order):
        raise ValueError(f"head={order!r}: expected one of {', '.join(get_args(Order))}")


def channels(shape: Sequence[int]) -> int:
    """Channels of features whose shape for one image is (C, H, W), (N, C) or (C,)."""
    return shape[0] if len(shape) == 3 else shape[-1]


def head_flops(shape: Sequence[int], width: int, num_classes: int, order: Order) -> int:
    """Forward FLOPs per image of a head on features of ``shape``, 2 x multiply-adds."""
    adapter = channels(shape) * width if order == "pool_first" else math.prod(shape) * width
    return 2 * (adapter + width * num_classes)
