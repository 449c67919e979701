"""The temporary head that closes an unfinished student."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

Kind = Literal["pool_first", "paper", "linear"]


class ReferenceHead(nn.Module):
    """Teaching reference head (arXiv 2311.13811): 1x1 conv adapter, norm, global pool, linear.

    Nothing in it bends, so pooling may come first: the same function up to the norm's statistics,
    at about half the cost of a first grade. Both orders have the same state dict.

    Args:
        in_channels: channels of the features.
        width: channels after the adapter. A student takes the ``in_features`` of its classifier,
            unless told otherwise, so that rows of ``linear`` can move there.
        num_classes: width of the logits.
        kind: ``"pool_first"``; ``"paper"``, which pools last; or ``"linear"``, which is a pool and
            a linear layer alone: no adapter, no norm, and ``width`` is not used.
        channels_last: the features are (B, ..., C), such as tokens (B, N, C) and the maps
            (B, H, W, C) of Swin transformers, not (B, C, ...).

    Shapes: features with any number of axes, also none, for place, to logits (B, num_classes).
    The norm is a BatchNorm: in train mode ``"pool_first"`` needs at least two images.

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
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        check_kind(kind)
        self.kind = kind
        self.channels_last = channels_last
        self.adapter: nn.Module = nn.Identity()
        self.norm: nn.Module = nn.Identity()
        if kind != "linear":
            self.adapter = nn.Conv2d(in_channels, width, 1, bias=False)
            self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(in_channels if kind == "linear" else width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """What ``linear`` reads: (B, width), or (B, in_channels) where ``kind`` is "linear"."""
        if self.channels_last:
            x = x.movedim(-1, 1)
        x = x.unsqueeze(-1).flatten(2).unsqueeze(-1)  # (B, C, places, 1)
        if self.kind != "paper":
            x = x.mean((2, 3), keepdim=True)
        return self.norm(self.adapter(x)).mean((2, 3))


def check_kind(kind: str) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"head={kind!r}: expected one of {', '.join(get_args(Kind))}")


def head_flops(
    in_channels: int, places: int, width: int, num_classes: int, kind: Kind = "pool_first"
) -> int:
    """Forward FLOPs per image (2 x multiply-adds) of a head on features with so many places."""
    if kind == "linear":
        return 2 * in_channels * num_classes
    adapter = in_channels * width * (places if kind == "paper" else 1)
    return 2 * (adapter + width * num_classes)
