"""A program that ends at the first confident exit: chosen, written, and run on every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edufast.edge import onnx
from edufast.edge.exit_choice import Exits, Target, accuracy_on_others, choose
from edufast.edge.format import OnnxFormat
from edufast.edge.onnx_early_exit import with_early_exit
from edufast.edge.original import Original
from edufast.edge.parity import (
    BATCH,
    MIN_AGREEMENT,
    MIN_AGREEMENT_ALONE,
    ExportError,
    Images,
    Parity,
    check_drop,
    measure,
)
from edufast.edge.preprocess import for_channels_last
from edufast.models.bn_folding import folded_if_traceable
from edufast.student.early_exits import EarlyExit, EveryExit, exit_flops
from edufast.student.student import Student


@dataclass(frozen=True)
class EarlyExits:
    """Where images leave a program with early exits, and what that saves.

    Attributes:
        threshold: the probability of a class at which they do.
        target: what it was chosen for.
        depths: number of fragments below each exit; the last is the whole student.
        shares: of the validation images that leave at each.
        cost: mean over these, as a share of the whole student's FLOPs.
        accuracy_on_others: on images that the threshold was not chosen on, see
            :func:`edufast.edge.exit_choice.accuracy_on_others`.
    """

    threshold: float
    target: str
    depths: tuple[int, ...]
    shares: tuple[float, ...]
    cost: float
    accuracy_on_others: float


def write_early_exit(
    original: Original,
    student: Student,
    target: Target,
    form: OnnxFormat,
    path: Path,
    metadata: Mapping[str, Any],
) -> tuple[EarlyExits, Parity]:
    """Write the program to ``path``, its threshold chosen for ``target`` by what the exits answer
    in the format's own arithmetic, and run it on every sample.

    Args:
        original: the whole student, which it is compared with; with labels.
        student: the same one, with its exits.

    Raises:
        ExportError: no threshold reaches the target; or the program does not do what
            :class:`edufast.EarlyExit` does, or loses more than the target allows.
    """
    depths, names = student.depths, [f"exit{depth}" for depth in student.depths]
    every = for_channels_last(folded_if_traceable(EveryExit(student)), original.input_size)
    proto = form.graph(replace(original, model=every), names)
    cost = np.array(exit_flops(student)) / student.flops(student.grown)
    onnx.save(proto, path, {})
    assert original.labels is not None
    exits = Exits.of(
        np.stack(_one_by_one(path, original.samples)),
        original.labels,
        cost,
        original.expected.argmax(1) == original.labels,
    )
    threshold = choose(exits, target)
    if threshold is None:
        least = f"{cost[0]:.0%} of the cost is the least, and " if target.of_cost else ""
        raise ExportError(
            f"no early exits satisfy {target}: {least}without them the accuracy "
            f"is {exits.right[-1].mean():.2%}, the whole student's in PyTorch "
            f"{exits.right_whole.mean():.2%}"
        )

    def measured(threshold: float) -> tuple[NDArray[np.int64], Parity]:
        said = {"threshold": threshold, "target": str(target), "depths": depths}
        program = with_early_exit(proto, names, depths, threshold)
        onnx.save(program, path, {**metadata, "early_exit": said})
        logits, left = _one_by_one(path, original.samples)
        _check_program(original, EarlyExit(student, threshold), logits, left, form)
        return left, measure(original.expected, logits, original.labels)

    left, parity = measured(threshold)
    assert parity.difference is not None
    missing = -100 * parity.difference - target.limit
    if not target.of_cost and missing > 1e-9:
        # The program may answer a few images otherwise than its exits did when they were counted.
        safer = choose(exits, replace(target, limit=target.limit - missing))
        if safer is not None:
            threshold = safer
            left, parity = measured(threshold)
    check_drop(parity, 100.0 if target.of_cost else target.limit)
    shares = np.array([(left == depth).mean() for depth in depths])
    early_exits = EarlyExits(
        threshold=threshold,
        target=str(target),
        depths=depths,
        shares=tuple(shares.tolist()),
        cost=float(shares @ cost),
        accuracy_on_others=accuracy_on_others(exits, target),
    )
    return early_exits, parity


def _one_by_one(path: Path, images: Images) -> list[NDArray[Any]]:
    """All that the file computes, (N, ...) each; alone, so that no other image changes sums."""
    run = onnx.outputs_of(path)
    answers = [
        run(image[None])
        for start in range(0, len(images), BATCH)
        for image in images[start : start + BATCH]
    ]
    return [np.concatenate(rows) for rows in zip(*answers, strict=True)]


def _check_program(
    original: Original,
    reference: EarlyExit,
    logits: NDArray[np.float32],
    left: NDArray[np.int64],
    form: OnnxFormat,
) -> None:
    """Compare the program with the same exits in PyTorch; integers may change what is close."""
    images, same = original.samples, 0
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            expected = reference(torch.from_numpy(original.prepared(images[part])))
            classes = expected.logits.argmax(1).numpy() == logits[part].argmax(1)
            same += int((classes & (expected.depth.numpy() == left[part])).sum())
    least = MIN_AGREEMENT_ALONE if form.INTEGERS else MIN_AGREEMENT
    if same < least * len(images):
        raise ExportError(
            f"the program with early exits answers {same / len(images):.4f} of {len(images)} "
            f"images as PyTorch does, at the same exit; expected at least {least}"
        )
