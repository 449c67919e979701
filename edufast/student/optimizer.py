"""What growth does to an optimiser: parameters leave, join and hand on their state."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def copy_rows(source: Tensor, target: Tensor) -> None:
    """Into the first rows of a linear's tensor, or of a 1x1 convolution's."""
    first = target[: len(source)]
    first.copy_(source.view_as(first))


def follow_growth(
    optimizer: Optimizer,
    before: Sequence[nn.Parameter],
    active: dict[str, nn.Parameter],
    carried: Sequence[tuple[nn.Parameter, nn.Parameter]],
    keep_state: bool,
) -> None:
    """Bring the groups and the state of an optimizer in line with the parameters now active.

    ``carried``: parameters and those that got their rows. What is gone leaves its place in its
    group to the last of them.
    """
    groups, state = optimizer.param_groups, optimizer.state
    names = {parameter: name for name, parameter in active.items()}
    for group in groups:
        names.update(zip(group["params"], group.get("param_names", ()), strict=False))
    order = {parameter: index for index, parameter in enumerate(active.values())}
    gone = set(before) - set(active.values())

    if not keep_state:
        state.clear()
    for old, new in carried:
        if old in state:
            state[new] = {key: _widen(value, old, new) for key, value in state[old].items()}
    for parameter in gone:
        state.pop(parameter, None)

    heirs = {old: new for old, new in carried if old in gone}
    seen: set[Tensor] = set()
    for group in groups:
        # Also dropped: a carried parameter's successor that the optimizer held already.
        params = [heirs.get(parameter, parameter) for parameter in group["params"]]
        group["params"] = [p for p in dict.fromkeys(params) if p not in gone and p not in seen]
        seen.update(group["params"])
    groups[-1]["params"] += [p for p in active.values() if p not in seen]
    for group in groups:
        group["params"].sort(key=lambda p: order.get(p, len(order)))
        if "param_names" in group:
            group["param_names"] = [names[parameter] for parameter in group["params"]]


def _widen(value: Any, old: Tensor, new: Tensor) -> Any:
    """A tensor of optimizer state shaped like ``old``, with zeros for the rows ``new`` adds."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return copy.deepcopy(value)  # a step counter; the old parameter may live on
    wide = torch.zeros_like(new, dtype=value.dtype)
    copy_rows(value, wide)
    return wide
