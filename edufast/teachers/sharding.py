"""Teachers whose weights are spread over the ranks, since each is too large for every one of them.

By PyTorch's FSDP2: a rank keeps a share of every parameter, and has a whole part of the network
only while that part runs. All ranks run a sharded teacher at the same time.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from edufast.utils.ranks import size

# Parameters of a part that is gathered at a time, at least. Smaller parts cost more operations
# among the ranks, and spare memory that large teachers do not notice.
_PART = 1_000_000


def sharded(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """``model``, changed in place, of which this rank has its share on ``device``. The whole of it
    never is there.

    Args:
        model: frozen, on the CPU. Modules with children are called, not only read.
        device: of all ranks' kind.
        dtype: of its weights; None: unchanged.

    Raises:
        ValueError, NotImplementedError: FSDP2 does not take such a parameter, as a scalar.
    """
    model = model.to(dtype=dtype).to(memory_format=torch.contiguous_format)
    mesh = init_device_mesh(device.type, (size(),))
    _shard_parts(model, mesh)
    if not isinstance(model, FSDPModule):
        _shard(model, mesh)
    return model


def _shard_parts(module: nn.Module, mesh: DeviceMesh) -> int:
    """Returns how many of its parameters belong to no part yet."""
    if isinstance(module, FSDPModule):  # it has several names
        return 0
    children = list(module.children())
    left = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    left += sum(_shard_parts(child, mesh) for child in children)
    # Layers are not always called: attention reads the weights of its projection. Lists never are.
    callable_part = children and not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    if left < _PART or not callable_part:
        return left
    _shard(module, mesh)
    return 0


def _shard(module: nn.Module, mesh: DeviceMesh) -> None:
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
