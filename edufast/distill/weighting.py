"""Weights of several teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.ops import ClassSlices, min_norm_weights
from edufast.ops.reference.kd_loss_weights import WEIGHTINGS as OPERATOR_WEIGHTINGS
from edufast.ops.reference.kd_loss_weights import row_weights
from edufast.utils.errors import UserError
from edufast.utils.registry import Registry, call_user

# From (logits, outputs, labels, temperature), see find_weighting, to (K,) or (B, K) weights.
Weighting: TypeAlias = Callable[[Tensor, TeacherOutputs, Tensor, float], Tensor]


def aekd(logits: Tensor, outputs: TeacherOutputs, labels: Tensor, temperature: float) -> Tensor:
    """(K,) weights by :func:`edufast.ops.min_norm_weights`."""
    return min_norm_weights(logits, outputs.logits, slices=outputs.slices, temperature=temperature)


# A name in place of a function: kd_loss computes that weighting itself.
WEIGHTINGS: Registry[Weighting | str] = Registry(
    "weighting",
    "edufast.weightings",
    Tensor,
    {"mean": "mean", "entropy": "entropy", "confidence": "confidence", "aekd": aekd},
)

register_weighting = WEIGHTINGS.register


def find_weighting(weighting: str | Weighting) -> str | Weighting:
    """The weighting that ``weighting`` stands for.

    No gradient flows through the weights. If samples are routed, each teacher counts for its own
    samples only, whatever the weighting.

    Args:
        weighting: "mean" (AVER), "entropy" (EBKD) or "confidence" (CA-MKD), see
            :func:`edufast.ops.kd_loss`; "aekd", see :func:`edufast.ops.min_norm_weights`; or your
            own: a registered name, an import path such as ``mypackage.weights:mine``, an entry
            point of the group ``edufast.weightings``, or the function itself. It takes the
            student's logits (B, C), the
            :class:`~edufast.distill.teacher_outputs.TeacherOutputs`, labels (B,) and the
            temperature, and returns the weights of the K = ``len(outputs.logits)`` teachers, (K,)
            or (B, K) for each row, which should be at least 0 and sum to 1.

    Returns:
        A function, or the name of a weighting that kd_loss computes itself.

    Raises:
        UserError: there is no such weighting, it cannot be imported, or it is no function.
    """
    return weighting if callable(weighting) else WEIGHTINGS.find(weighting)


def reads_labels(weighting: str | Weighting) -> bool:
    """Whether the weights depend on the samples' classes, or may: those of a user's function."""
    return weighting not in ("mean", "entropy", aekd)


def operator_weighting(
    weighting: str | Weighting,
    logits: Tensor,
    outputs: TeacherOutputs,
    labels: Tensor,
    temperature: float,
) -> str | Tensor:
    """The argument ``weighting`` of :func:`edufast.ops.kd_loss`: a name, or (K,) or (B, K) weights.

    Raises:
        UserError: a user's function fails or returns something else.
    """
    if outputs.weighting != "mean":
        return outputs.weighting
    if isinstance(weighting, str):
        return weighting
    what = f"weighting {getattr(weighting, '__qualname__', weighting)!r}"
    found = call_user(what, weighting, logits, outputs, labels, temperature)
    teachers = len(outputs.logits)
    expected = f"a Tensor ({teachers},) or ({len(labels)}, {teachers})"
    if not isinstance(found, Tensor):
        raise UserError(f"{what} returned {type(found).__name__}; expected {expected}")
    if found.shape not in ((teachers,), (len(labels), teachers)):
        raise UserError(f"{what} returned a Tensor {tuple(found.shape)}; expected {expected}")
    return found.detach().float()


def weights(
    weighting: str | Weighting,
    logits: Tensor,
    outputs: TeacherOutputs,
    labels: Tensor,
    temperature: float,
) -> Tensor:
    """(B, K) weights, for losses not computed by :func:`edufast.ops.kd_loss`."""
    chosen = operator_weighting(weighting, logits, outputs, labels, temperature)
    if isinstance(chosen, Tensor):
        return chosen.expand(len(labels), -1)
    teachers = [t.detach().float() for t in outputs.logits]
    return row_weights(
        OPERATOR_WEIGHTINGS[chosen], labels.clamp_min(0), slices_of(outputs), teachers
    )


def slices_of(outputs: TeacherOutputs) -> ClassSlices:
    """The teachers' class slices; without any, all columns of each teacher."""
    if outputs.slices is not None:
        return outputs.slices
    sizes = tuple(t.shape[1] for t in outputs.logits)
    return ClassSlices((0,) * len(sizes), (), sizes)
