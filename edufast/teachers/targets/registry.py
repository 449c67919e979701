"""Targets by name: those of the package, and users' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from edufast.teachers.targets.centred import centred
from edufast.teachers.targets.energy import energy
from edufast.teachers.targets.gated import gated
from edufast.teachers.targets.joint import joint
from edufast.teachers.targets.slice_logits import SliceLogits
from edufast.utils.registry import Registry

# From the teachers' logits and the temperature T of the loss to (B, C) logits, of which
# softmax(· / T) is the soft target.
Merge: TypeAlias = Callable[[SliceLogits, float], Tensor]

# A name in place of a function: nothing is merged, see edufast.teachers.supervision.
TARGETS: Registry[Merge | str] = Registry(
    "target",
    "edufast.targets",
    Tensor,
    {
        "routed": "routed",
        "full": "full",
        "none": "none",
        "gated": gated,
        "joint": joint,
        "centred": centred,
        "energy": energy,
    },
)

register_target = TARGETS.register


def find_target(name: str) -> Merge | str:
    """The target called ``name``.

    Args:
        name: "routed": each sample learns from the teacher that owns its class, over that teacher's
            slice. "full": the mean over teachers that know every class taught. "none":
            cross-entropy only. Or one that merges teachers of disjoint classes: "gated", "joint",
            "centred", "energy", a registered name, an import path such as
            ``mypackage.targets:mine``, or an entry point of the group ``edufast.targets``. It takes
            :class:`~edufast.teachers.targets.slice_logits.SliceLogits` and the temperature, and
            returns (B, C) logits.

    Returns:
        The function that merges, or ``name`` itself if nothing is merged.

    Raises:
        UserError: there is no such target, it cannot be imported, or it is no function.
    """
    return TARGETS.find(name)
