"""How much each of several teachers counts."""

from __future__ import annotations

from torch import Tensor

from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.ops import ClassSlices, min_norm_weights
from edufast.ops.kd_loss_reference import WEIGHTINGS as OPERATOR_WEIGHTINGS
from edufast.ops.kd_loss_reference import row_weights

WEIGHTINGS = ("mean", "entropy", "confidence", "aekd")


def check_weighting(weighting: str) -> str:
    """``weighting``, one of WEIGHTINGS: "mean" (AVER), "entropy" (EBKD), "confidence" (CA-MKD),
    "aekd". What they are is told at :func:`edufast.ops.kd_loss` and, of the last,
    :func:`edufast.ops.min_norm_weights`. All sum to 1 over the teachers, and are constants for the
    gradient. Where samples are routed to their owners, that weighting applies instead.

    Raises:
        ValueError: it is something else.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(
            f"weighting is {weighting!r}; expected one of {', '.join(map(repr, WEIGHTINGS))}"
        )
    return weighting


def operator_weighting(
    weighting: str, logits: Tensor, outputs: TeacherOutputs, temperature: float
) -> str | Tensor:
    """The argument ``weighting`` of :func:`edufast.ops.kd_loss`: a name, or (K,) weights."""
    if outputs.weighting != "mean":
        return outputs.weighting
    if weighting == "aekd":
        return min_norm_weights(
            logits, outputs.logits, slices=outputs.slices, temperature=temperature
        )
    return weighting


def weights(
    weighting: str, logits: Tensor, outputs: TeacherOutputs, labels: Tensor, temperature: float
) -> Tensor:
    """(B, K) weights, for losses that :func:`edufast.ops.kd_loss` does not compute."""
    chosen = operator_weighting(weighting, logits, outputs, temperature)
    if isinstance(chosen, Tensor):
        return chosen.expand(len(labels), -1)
    teachers = [t.detach().float() for t in outputs.logits]
    return row_weights(
        OPERATOR_WEIGHTINGS[chosen], labels.clamp_min(0), slices_of(outputs), teachers
    )


def slices_of(outputs: TeacherOutputs) -> ClassSlices:
    """The teachers' class slices; without any each speaks about all its columns."""
    if outputs.slices is not None:
        return outputs.slices
    sizes = tuple(t.shape[1] for t in outputs.logits)
    return ClassSlices((0,) * len(sizes), (), sizes)
