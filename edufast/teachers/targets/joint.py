"""Joint target: the teachers' logits side by side, under one softmax."""

from __future__ import annotations

from torch import Tensor

from edufast.teachers.targets.slice_logits import SliceLogits


def joint(teachers: SliceLogits, temperature: float) -> Tensor:
    """``softmax(target / T)_c = exp(t_kc / T) / sum_j sum_d exp(t_jd / T)`` for c in slice k.

    Knowledge amalgamation as it is usually coded: stacked logits as soft target (Shen et al. 2019,
    arXiv 1811.02796; Luo et al. 2019, arXiv 1906.10546, whose code has the softened cross-entropy).
    The slices are ordered by the teachers' own scales: no teacher has learned to give low logits to
    images of other slices, and a constant added to all logits of a teacher, which does not change
    its own answers, changes the target.

    Args:
        teachers: K teachers' logits t_k for a batch.
        temperature: not used; the loss applies it.

    Returns:
        (B, C) logits; -inf for classes that no teacher knows.
    """
    return teachers.assemble(teachers.logits)
