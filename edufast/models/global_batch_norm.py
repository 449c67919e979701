"""Batch normalisation by the statistics of the global batch, on whatever device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edufast.utils.collectives import all_sum
from edufast.utils.errors import UserError
from edufast.utils.ranks import size


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers of ``model`` whose statistics have to be those of all ranks; none with one rank.

    Raises:
        UserError: a layer has batch statistics that are known to its own code only.
    """
    found = []
    for name, module in model.named_modules():
        if (
            size() == 1
            or not isinstance(module, _BatchNorm)
            or isinstance(module, nn.SyncBatchNorm)
        ):
            continue
        if type(module) not in _GLOBAL:
            raise UserError(
                f"{name} of the student is a {type(module).__name__}, whose statistics on {size()} "
                "ranks would be those of a rank's own images; expected torch's BatchNorm or "
                "SyncBatchNorm, or one process"
            )
        found.append(module)
    return found


@contextmanager
def global_statistics(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Within the block, ``layers`` that are in train mode normalise by the mean and the variance of
    the images of all ranks, and keep these as running statistics.

    torch.nn.SyncBatchNorm does so on GPUs only. The layers stay what they are: their class is
    another within the block.
    """
    usual = [type(layer) for layer in layers]
    try:
        for layer, kind in zip(layers, usual, strict=True):
            layer.__class__ = _GLOBAL[kind]
        yield
    finally:
        for layer, kind in zip(layers, usual, strict=True):
            layer.__class__ = kind


class _GlobalStatistics(_BatchNorm):
    """In train mode one sum over the ranks in the forward pass, and one in the backward pass.

    Sums and squares are those of the distances from the running mean, which is near: without it,
    the variance of values far from 0 would be a small difference of large numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.running_mean is not None:
            near = _copy(self.running_mean)
        else:
            near = wide.new_zeros(self.num_features)
        distance = wide - near.view(shape)
        count = distance.new_full((1,), x.numel() // x.shape[1])
        sums = torch.cat([distance.sum(axes), distance.square().sum(axes), count])
        sums = all_sum(sums)
        total = sums[-1].detach()
        offset, square = sums[:-1].div(total).chunk(2)
        variance = (square - offset.square()).clamp_min(0)
        self._remember(near + offset.detach(), variance.detach() * (total / (total - 1)))
        y = (distance - offset.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        step: Tensor | float | None = self.momentum
        if step is None:  # the mean of all batches
            step = 1 / self.num_batches_tracked.to(mean.dtype)
        self.running_mean += step * (mean - self.running_mean)
        self.running_var += step * (variance - self.running_var)


@torch.library.custom_op("edufast::copy", mutates_args=())
def _copy(tensor: Tensor) -> Tensor:
    """A copy without gradient.

    It is an operator of its own because torch.compile would copy again in the backward pass, when
    the running mean has changed.
    """
    return tensor.clone()


@_copy.register_fake
def _(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor)


class _Global1d(_GlobalStatistics, nn.BatchNorm1d):
    pass


class _Global2d(_GlobalStatistics, nn.BatchNorm2d):
    pass


class _Global3d(_GlobalStatistics, nn.BatchNorm3d):
    pass


_GLOBAL: dict[type[nn.Module], type[_GlobalStatistics]] = {
    nn.BatchNorm1d: _Global1d,
    nn.BatchNorm2d: _Global2d,
    nn.BatchNorm3d: _Global3d,
}
