"""The wrappers of torch.compile and data parallelism, and their prefixes of parameter names."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

_ATTRIBUTES = ("_orig_mod", "module")  # of torch.compile; of DataParallel and its like


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, without any number of these wrappers."""
    while True:
        if "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def wrapper_prefix(names: Collection[str]) -> str:
    """What all ``names`` of a state dict begin with because of such wrappers, perhaps nothing."""
    prefix = ""
    while names:
        found = [f"{prefix}{a}." for a in _ATTRIBUTES]
        longer = next((p for p in found if all(name.startswith(p) for name in names)), None)
        if longer is None:
            break
        prefix = longer
    return prefix
