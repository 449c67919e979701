"""The temporary head that closes an unfinished student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["grid", "pool_first", "paper", "linear"]

_GRID = 16  # places a grid head reads, at most: 4 x 4 of a map, 16 of tokens


class ReferenceHead(nn.Module):
    """The head that closes an unfinished student: features to logits (B, num_classes).

    The authors' teaching reference head (arXiv 2311.13811) is a 1x1 conv adapter, norm, global
    pool and linear. Nothing in it bends, so pooling may come first: the same function up to the
    norm's statistics, at about half the cost of a first grade. But the few channels of an early
    fragment, averaged over the whole image, say next to nothing about its class; a grid of places
    does, for about the same FLOPs.

    Args:
        in_channels: channels of the features.
        width: channels after the adapter. A student takes the ``in_features`` of its classifier,
            unless told otherwise, so that rows of ``linear`` can move there.
        num_classes: width of the logits.
        kind: ``"grid"``: average pool to at most 4 x 4 places, norm, linear over all of them,
            without adapter and ``width``; ``"pool_first"`` and ``"paper"``: the authors' head, in
            either order, with the same state dict; ``"linear"``: a global pool and a linear layer
            alone, without ``width``.
        size: shape of one image's features without the channels, such as (H, W) or (N,). Only
            ``"grid"`` needs it, the others take any.
        channels_last: the features are (B, ..., C), such as tokens (B, N, C) and the maps
            (B, H, W, C) of Swin transformers, not (B, C, ...).

    The norm is a BatchNorm: in train mode it needs at least two images unless it sees places.

    Raises:
        ValueError: ``kind`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_classes: int,
        kind: Kind = "pool_first",
        *,
        size: Sequence[int] = (),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        check_kind(kind)
        self.kind = kind
        self.channels_last = channels_last
        self.window = _window(size)
        self.adapter: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if kind == "grid":
            self.norm = nn.BatchNorm2d(in_channels)
        elif kind != "linear":
            self.adapter = nn.Conv2d(in_channels, width, 1, bias=False)
            self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(head_width(in_channels, size, width, kind), num_classes)
        # A grid's vector gets the length of one place's: the longer what a linear layer reads, the
        # lower the learning rate at which it diverges.
        self.scale = math.sqrt(in_channels / self.linear.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """What ``linear`` reads: (B, :func:`head_width`)."""
        if self.channels_last:
            x = x.movedim(-1, 1)
        if self.kind == "grid":
            x = F.avg_pool2d(x.unsqueeze(-1).unsqueeze(-1).flatten(3), self.window)
            return self.scale * self.norm(x).flatten(1)
        x = x.unsqueeze(-1).flatten(2).unsqueeze(-1)  # (B, C, places, 1)
        if self.kind != "paper":
            x = x.mean((2, 3), keepdim=True)
        return self.norm(self.adapter(x)).mean((2, 3))


def check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"head={kind!r}: expected one of {', '.join(get_args(Kind))}")


def head_width(in_channels: int, size: Sequence[int], width: int, kind: Kind) -> int:
    """Features that the linear layer of a head reads; arguments as of :class:`ReferenceHead`."""
    if kind == "grid":
        height, breadth = _plane(size)
        down, across = _window(size)
        return in_channels * (height // down) * (breadth // across)
    return in_channels if kind == "linear" else width


def head_flops(
    in_channels: int, size: Sequence[int], width: int, num_classes: int, kind: Kind = "pool_first"
) -> int:
    """Forward FLOPs per image (2 x multiply-adds); arguments as of :class:`ReferenceHead`."""
    adapter = 0
    if kind in ("pool_first", "paper"):
        adapter = in_channels * width * (math.prod(size) if kind == "paper" else 1)
    return 2 * (adapter + head_width(in_channels, size, width, kind) * num_classes)


def _plane(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of features without their channels; tokens are a column."""
    height, *rest = *size, 1
    return height, math.prod(rest)


def _window(size: Sequence[int]) -> tuple[int, int]:
    """What the grid averages. Rows and columns that do not fill a window are left out."""
    height, width = _plane(size)
    side = math.isqrt(_GRID) if width > 1 else _GRID
    return math.ceil(height / side), math.ceil(width / math.isqrt(_GRID))
