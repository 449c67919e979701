"""The temporary head of an unfinished student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from torch import Tensor, nn
from torch.nn import functional as F

from edufast.utils.choices import HeadKind
from edufast.utils.errors import unknown

_GRID = 16  # largest number of cells of a grid head: 4 x 4 for a map, 16 for tokens


class ReferenceHead(nn.Module):
    """The head of an unfinished student: features to logits (B, num_classes).

    The authors' teaching reference head (arXiv 2311.13811) is a 1x1 convolution, norm, global
    pooling and a linear layer, without a nonlinearity. Pooling may therefore come first: the same
    function up to the norm's statistics, at about half the cost of a first grade. But the few
    channels of an early fragment, averaged over the whole image, contain little information about
    its class; a grid of averages contains more, for about the same FLOPs.

    The norm is a BatchNorm: in train mode it needs two images, or features with several locations.

    Args:
        in_channels: channels of the features.
        width: channels after the adapter. A student uses the ``in_features`` of its classifier by
            default, so that rows of ``linear`` can be moved there.
        num_classes: width of the logits.
        kind: ``"grid"``: average pooling to at most 4 x 4 cells, norm, and a linear layer on all of
            them, without adapter and ``width``; ``"pool_first"`` and ``"paper"``: the authors' head
            in either order, with the same state dict; ``"linear"``: global pooling and a linear
            layer only, without ``width``.
        size: shape of one image's features without the channels, such as (H, W) or (N,). Only
            ``"grid"`` needs it, for the number of its cells; it also takes smaller features, which
            it pools to as many.
        channels_last: the features are (B, ..., C), such as tokens (B, N, C) and the maps
            (B, H, W, C) of Swin transformers, not (B, C, ...).

    Raises:
        ValueError: ``kind`` is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        num_classes: int,
        kind: HeadKind = "pool_first",
        *,
        size: Sequence[int] = (),
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        check_kind(kind)
        self.kind = kind
        self.channels_last = channels_last
        self.cells, self.area = _cells(size)
        self.adapter: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if kind == "grid":
            self.norm = nn.BatchNorm2d(in_channels)
        elif kind != "linear":
            self.adapter = nn.Conv2d(in_channels, width, 1, bias=False)
            self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(head_width(in_channels, size, width, kind), num_classes)
        # A grid's vector is scaled to the length of one cell's, because a linear layer with longer
        # inputs diverges at lower learning rates.
        self.scale = math.sqrt(in_channels / self.linear.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """The input of ``linear``: (B, :func:`head_width`)."""
        if self.channels_last:
            x = x.movedim(-1, 1)
        if self.kind == "grid":
            height, width = self.area
            x = x.unsqueeze(-1).unsqueeze(-1).flatten(3)[:, :, :height, :width]
            return self.scale * self.norm(F.adaptive_avg_pool2d(x, self.cells)).flatten(1)
        x = x.unsqueeze(-1).flatten(2).unsqueeze(-1)  # (B, C, locations, 1)
        if self.kind != "paper":
            x = x.mean((2, 3), keepdim=True)
        return self.norm(self.adapter(x)).mean((2, 3))


def check_kind(kind: str) -> None:
    if not isinstance(kind, str) or kind not in get_args(HeadKind):
        raise unknown("head", kind, get_args(HeadKind))


def head_width(in_channels: int, size: Sequence[int], width: int, kind: HeadKind) -> int:
    """Input width of a head's linear layer; arguments as for :class:`ReferenceHead`."""
    if kind == "grid":
        cells, _ = _cells(size)
        return in_channels * math.prod(cells)
    return in_channels if kind == "linear" else width


def head_flops(
    in_channels: int,
    size: Sequence[int],
    width: int,
    num_classes: int,
    kind: HeadKind = "pool_first",
) -> int:
    """Forward FLOPs per image (2 x multiply-adds); arguments as for :class:`ReferenceHead`."""
    adapter = 0
    if kind in ("pool_first", "paper"):
        adapter = in_channels * width * (math.prod(size) if kind == "paper" else 1)
    return 2 * (adapter + head_width(in_channels, size, width, kind) * num_classes)


def _cells(size: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of the grid, and of the features that they cover: what does not fill a cell
    is dropped, because cells that overlap take many operators in an exported model. Tokens form a
    column."""
    height, *rest = *size, 1
    width = math.prod(rest)
    columns = math.isqrt(_GRID)
    down = math.ceil(height / (columns if width > 1 else _GRID))
    across = math.ceil(width / columns)
    cells = height // down, width // across
    return cells, (cells[0] * down, cells[1] * across)
