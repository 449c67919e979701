"""Folding batch normalisation into the preceding layers, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx, nn

from edufast.models.tracing import trace
from edufast.utils._torch_private import is_hooked
from edufast.utils.errors import UserError
from edufast.utils.modes import in_eval_mode

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy for inference with batch normalisation folded into the preceding layers.

    Convolutions whose output goes to one BatchNorm only take over its scale and shift, and an
    identity replaces it. (A linear layer may have tokens, of which its norm scales each, not each
    feature; a trace does not tell.) The copy is in eval mode and computes what ``model.eval()``
    computes, up to rounding (folded in float64).

    Args:
        model: a model of one image tensor that torch.fx can trace; it is not changed.

    Raises:
        UserError: the model cannot be traced.
    """
    folded = in_eval_mode(copy.deepcopy(model))
    modules = dict(folded.named_modules())
    for layer, norm in _foldable(trace(folded, training=False).nodes, modules):
        _fold(layer, norm)
        for parent in modules.values():  # it may have several, and several names
            for name in [name for name, child in parent._modules.items() if child is norm]:
                setattr(parent, name, nn.Identity())
    return folded


def folded_if_traceable(model: nn.Module) -> nn.Module:
    """:func:`fold_batch_norm`, or a plain copy in eval mode if the model cannot be traced."""
    try:
        return fold_batch_norm(model)
    except UserError:
        return in_eval_mode(copy.deepcopy(model))


@torch.no_grad()
def _fold(layer: Any, norm: Any) -> None:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = norm.weight * scale, norm.weight * shift + norm.bias
    if layer.bias is not None:
        shift = shift + layer.bias * scale
    weight = layer.weight * scale.view(-1, *(1 for _ in layer.weight.shape[1:]))
    grad = layer.weight.requires_grad
    layer.bias = nn.Parameter(shift.to(layer.weight.dtype), grad)
    layer.weight = nn.Parameter(weight.to(layer.weight.dtype), grad)


def _foldable(
    nodes: Sequence[fx.Node], modules: dict[str, nn.Module]
) -> Iterator[tuple[nn.Module, nn.Module]]:
    uses = _uses(nodes, modules)
    for node in nodes:
        users = list(node.users)
        if node.op != "call_module" or len(users) != 1 or users[0].op != "call_module":
            continue
        layer, norm = (modules[str(n.target)] for n in (node, users[0]))
        # Exact types: a subclass may do more, like timm's BatchNormAct2d.
        if type(layer) not in _LAYERS or type(norm) not in _NORMS or norm.running_mean is None:
            continue
        if all(uses[module] == 1 and not is_hooked(module) for module in (layer, norm)):
            yield layer, norm


def _uses(nodes: Sequence[fx.Node], modules: dict[str, nn.Module]) -> Counter[nn.Module]:
    """How often each module is called, also within one that could not be traced, or its weights
    are read."""
    uses: Counter[nn.Module] = Counter()
    for node in nodes:
        if node.op == "call_module":
            uses.update(modules[str(node.target)].modules())
        elif node.op == "get_attr":
            owner = modules.get(str(node.target).rpartition(".")[0])
            if owner is not None:
                uses[owner] += 1
    return uses
