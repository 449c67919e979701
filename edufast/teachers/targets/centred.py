"""Centred target: each teacher's logits minus their mean, side by side."""

from __future__ import annotations

from torch import Tensor

from edufast.teachers.targets.slice_logits import SliceLogits


def centred(teachers: SliceLogits, temperature: float) -> Tensor:
    """``target_c = t_kc - mean_d t_kd`` for c in slice k, the mean over the slice.

    What double distillation regresses on in Deep Model Consolidation (DMC, Zhang et al. 2020, arXiv
    1903.07864). With the algorithm "mse" it is their loss, but for the mean of the student's row,
    which changes no probability and which "mse" leaves free.

    It is also the all-class soft label of Unifying Heterogeneous Classifiers (UHC,
    Vongkulbhisal et al. 2019, arXiv 1904.06062) where slices are disjoint. Their cross-entropy
    ``-sum_k sum_c p_kc log(q_c / sum_d q_d)``, d over slice k, then says nothing about the ratio of
    two slices; descending it from a uniform q keeps the sum of log q over each slice, and ends at
    ``softmax(target / T)``.

    Args:
        teachers: K teachers' logits t_k for a batch.
        temperature: not used; the loss applies it.

    Returns:
        (B, C) logits; -inf for classes that no teacher knows.
    """
    return teachers.assemble([t - t.mean(1, keepdim=True) for t in teachers.logits])
