"""Energy-gated target: gated, and the teachers say how the other slices share what is left."""

from __future__ import annotations

import torch
from torch import Tensor

from edufast.teachers.targets.slice_logits import SliceLogits


def energy(teachers: SliceLogits, temperature: float, leak: float = 0.1) -> Tensor:
    """As :func:`edufast.teachers.targets.gated.gated`, but the others share ``leak`` in proportion
    to ``sum_c exp(t_kc / T)``.

    ``-T logsumexp(t_k / T)`` is the energy of the sample under teacher k, which is lower for
    classes that a classifier was trained on (Liu et al. 2020, "Energy-based Out-of-distribution
    Detection", arXiv 2010.03759). So the ratios between the classes outside the owner's slice are
    those of :func:`edufast.teachers.targets.joint.joint`. The combination is this project's.

    Args:
        teachers: K teachers' logits t_k for a batch.
        temperature: T of the loss.
        leak: in [0, 1).

    Returns:
        (B, C) logits; -inf for classes that no teacher knows.

    Raises:
        ValueError: ``leak`` is out of range.
    """
    mass = torch.stack([(t / temperature).logsumexp(1) for t in teachers.logits], 1)
    # NaN in rows without others: their weights are not read.
    rest = torch.softmax(mass.masked_fill(teachers.owned, -torch.inf), 1)
    return teachers.gated(rest, leak, temperature)
