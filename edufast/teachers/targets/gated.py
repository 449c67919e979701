"""Gated target: the sample's class decides between the slices."""

from __future__ import annotations

from torch import Tensor

from edufast.teachers.targets.slice_logits import SliceLogits


def gated(teachers: SliceLogits, temperature: float, leak: float = 0.1) -> Tensor:
    """``softmax(target / T) = (1 - leak) p_o`` on the owner's slice, ``leak / (K - 1) p_k`` on the
    others', with ``p_k = softmax(t_k / T)``.

    A slice teacher knows nothing about other slices. Here the softened distribution of the teacher
    that owns the sample's class gets the mass ``1 - leak``, and the others share ``leak`` equally.
    So the student learns the slice of each sample as well as the similarities that each teacher
    sees between its own classes. A sample whose class no teacher knows is shared equally by all.

    Args:
        teachers: K teachers' logits t_k for a batch.
        temperature: T of the loss.
        leak: in [0, 1).

    Returns:
        (B, C) logits; -inf for classes that no teacher knows.

    Raises:
        ValueError: ``leak`` is out of range.
    """
    others = (~teachers.owned).float()
    return teachers.gated(others / others.sum(1, keepdim=True).clamp_min(1), leak, temperature)
