"""Updating an optimiser after growth: parameters are removed, added and replaced."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def copy_rows(source: Tensor, target: Tensor) -> None:
    """Copy into the first rows of ``target``, a tensor of a linear layer or a 1x1 convolution."""
    first = target[: len(source)]
    first.copy_(source.view_as(first))


def follow_growth(
    optimizer: Optimizer,
    before: Sequence[nn.Parameter],
    active: dict[str, nn.Parameter],
    carried: Sequence[tuple[nn.Parameter, nn.Parameter]],
    keep_state: bool,
    learned: Collection[Tensor] = (),
) -> None:
    """Bring the groups and the state of an optimizer in line with the parameters now active.

    Args:
        optimizer: updated in place.
        before: the parameters that were active before growth.
        active: those that are active now, by name.
        carried: pairs of a parameter and one that received its rows. If the first is no longer
            active, the last that received its rows takes its place in its group.
        keep_state: False clears the state of all parameters.
        learned: parameters that were trained before. New ones of them are added to the group with
            the option "learned", all others to the last group.
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

    successors = {old: new for old, new in carried if old in gone}
    seen: set[Tensor] = set()
    for group in groups:
        # A successor that the optimizer already had is not added a second time.
        params = [successors.get(parameter, parameter) for parameter in group["params"]]
        group["params"] = [p for p in dict.fromkeys(params) if p not in gone and p not in seen]
        seen.update(group["params"])
    slow = next((group for group in groups if group.get("learned")), groups[-1])
    for parameter in active.values():
        if parameter not in seen:
            (slow if parameter in learned else groups[-1])["params"].append(parameter)
    for group in groups:
        group["params"].sort(key=lambda p: order.get(p, len(order)))
        if "param_names" in group:
            group["param_names"] = [names[parameter] for parameter in group["params"]]


def _widen(value: Any, old: Tensor, new: Tensor) -> Any:
    """A ``value`` of the state of ``old``, for ``new``: with zeros for rows that ``old`` lacks."""
    if not isinstance(value, Tensor) or value.shape != old.shape:
        return copy.deepcopy(value)  # such as a step counter; the old parameter may remain in use
    wide = torch.zeros_like(new, dtype=value.dtype)
    copy_rows(value, wide)
    return wide
