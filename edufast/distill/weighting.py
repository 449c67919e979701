"""How much each of several teachers counts."""

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

# Of (logits, outputs, labels, temperature), as in :func:`weights`, the weights of K teachers: (K,)
# or, for each row, (B, K), where K is len(outputs.logits).
Weighting: TypeAlias = Callable[[Tensor, TeacherOutputs, Tensor, float], Tensor]


def aekd(logits: Tensor, outputs: TeacherOutputs, labels: Tensor, temperature: float) -> Tensor:
    """(K,) weights by :func:`edufast.ops.min_norm_weights`."""
    return min_norm_weights(logits, outputs.logits, slices=outputs.slices, temperature=temperature)


# A name instead of a function: kd_loss computes that weighting itself.
WEIGHTINGS: Registry[Weighting | str] = Registry(
    "weighting",
    "edufast.weightings",
    Tensor,
    {"mean": "mean", "entropy": "entropy", "confidence": "confidence", "aekd": aekd},
)

register_weighting = WEIGHTINGS.register


def find_weighting(weighting: str | Weighting) -> str | Weighting:
    """The weighting of several teachers that an algorithm was given.

    Args:
        weighting: "mean" (AVER), "entropy" (EBKD), "confidence" (CA-MKD), see
            :func:`edufast.ops.kd_loss`; "aekd", see :func:`edufast.ops.min_norm_weights`; another
            registered name; an import path such as ``mypackage.weights:mine``; an entry point of
            the group ``edufast.weightings``; or a function. A function takes the student's logits
            (B, C), the :class:`~edufast.distill.teacher_outputs.TeacherOutputs`, labels (B,) and
            the temperature, and returns the weights (K,) of K teachers or (B, K) of each row,
            which should be at least 0 and sum to 1.

    Returns:
        A function, or the name of a weighting that kd_loss computes itself.

    Weights are constants for the gradient. Where samples are routed to their owners, each teacher
    counts for its own samples, whatever the weighting.

    Raises:
        UserError: there is no such weighting, it cannot be imported, or it is no function.
    """
    return weighting if callable(weighting) else WEIGHTINGS.find(weighting)


def operator_weighting(
    weighting: str | Weighting,
    logits: Tensor,
    outputs: TeacherOutputs,
    labels: Tensor,
    temperature: float,
) -> str | Tensor:
    """The argument ``weighting`` of :func:`edufast.ops.kd_loss`: a name, or (K,) or (B, K) weights.

    Raises:
        UserError: a user's function fails, or returns anything else.
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
    """(B, K) weights, for losses that :func:`edufast.ops.kd_loss` does not compute."""
    chosen = operator_weighting(weighting, logits, outputs, labels, temperature)
    if isinstance(chosen, Tensor):
        return chosen.expand(len(labels), -1)
    teachers = [t.detach().float() for t in outputs.logits]
    return row_weights(
        OPERATOR_WEIGHTINGS[chosen], labels.clamp_min(0), slices_of(outputs), teachers
    )


def slices_of(outputs: TeacherOutputs) -> ClassSlices:
    """The teachers' class slices; where there are none, each slice is all its columns."""
    if outputs.slices is not None:
        return outputs.slices
    sizes = tuple(t.shape[1] for t in outputs.logits)
    return ClassSlices((0,) * len(sizes), (), sizes)
