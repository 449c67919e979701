"""Measuring whether the exported file is the same classifier as the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edufast.edge.intervals import LEVEL, paired_difference
from edufast.utils.errors import one_line

Run = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Maps a batch of images, in the layout of the file's input, to logits (N, classes) float32."""

MIN_AGREEMENT = 0.999
# Images that lie between two steps of 8-bit integers may change sides with the order of additions.
MIN_AGREEMENT_ALONE = 0.9
BATCH = 32
SINGLES = 32  # images that are also run one by one, to check batch size 1
# Two implementations of a float32 network differ by rounding. Classes whose logits differ by less
# than this share of the largest logit are tied: either counts as the top-1 class.
TIE = 1e-4


class Images(Protocol):
    """An array of images, or something that gives its slices as arrays."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


class ExportError(RuntimeError):
    """The model cannot be exported, or the exported file does not match the model."""


@dataclass(frozen=True)
class ClassAccuracy:
    """Of the images of one class.

    Attributes:
        position: of the class among the logits.
        accuracy_torch, accuracy_exported: top-1, in [0, 1].
    """

    position: int
    accuracy_torch: float
    accuracy_exported: float


@dataclass(frozen=True)
class Parity:
    """How close the exported file is to the model. Without labels, accuracies are None.

    Attributes:
        samples: images compared.
        agreement: share of images with the same top-1 class in both; a tie within rounding counts
            as the same.
        accuracy_torch: top-1 accuracy of the model, in [0, 1].
        accuracy_exported: top-1 accuracy of the exported file.
        difference: the file's accuracy minus the model's.
        interval: of the difference, paired, at the level 95 %; see
            :func:`edufast.edge.intervals.paired_difference`.
        worst_class: the one that loses most, of several the least accurate; None if none loses.
        max_abs_difference: largest absolute difference between two logits. For information only:
            agreement and accuracy decide.
    """

    samples: int
    agreement: float
    accuracy_torch: float | None
    accuracy_exported: float | None
    difference: float | None
    interval: tuple[float, float] | None
    worst_class: ClassAccuracy | None
    max_abs_difference: float


def compare(
    expected: NDArray[np.float32],
    run: Run,
    images: Images,
    labels: NDArray[np.integer] | None,
    *,
    max_drop: float | None = None,
) -> Parity:
    """Run the exported file and compare it with the model.

    Runs the first `SINGLES` images one by one and then all of them in batches of `BATCH`, because
    the file must work at any batch size.

    Args:
        expected: (N, classes) float32, the model's logits.
        run: runs the exported file.
        images: N >= 2 images in the layout of the file's input.
        labels: (N,) integers, or None.
        max_drop: None: the file must be the same classifier as the model. Else how many points of
            accuracy it may lose; labels are needed.

    Raises:
        ExportError: without ``max_drop``, agreement is below `MIN_AGREEMENT`, or the accuracies
            differ; with it, the file loses more, or answers otherwise at batch size 1.
    """
    first = min(SINGLES, len(images))
    alone = _run(run, images[:SINGLES], 1)
    if max_drop is None:
        _check_same(measure(expected[:first], alone, _head(labels, first)), batch=1)
        parity = measure(expected, _run(run, images, BATCH), labels)
        _check_same(parity, batch=min(BATCH, len(images)))
        return parity
    logits = _run(run, images, BATCH)
    _check_alone(measure(logits[:first], alone, None))
    parity = measure(expected, logits, labels)
    check_drop(parity, max_drop)
    return parity


def torch_logits(
    model: nn.Module,
    images: Images,
    prepared: Callable[[NDArray[Any]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """(N, classes) float32 logits of ``model`` on images that ``prepared`` turns, batch by batch,
    into (N, C, H, W) float32, which the model may write into.

    Raises:
        ValueError: the model does not take them, or returns something else.
    """

    def run(batch: NDArray[Any]) -> NDArray[np.float32]:
        taken = torch.from_numpy(prepared(batch))
        try:
            logits = model(taken)
        except RuntimeError as error:
            raise ValueError(
                f"model cannot take images of (C, H, W) {tuple(taken.shape[1:])}: {one_line(error)}"
            ) from error
        if not isinstance(logits, Tensor):
            raise ValueError(f"model returns {type(logits).__name__}; expected a tensor of logits")
        return logits.numpy()

    with torch.inference_mode():
        return _run(run, images, BATCH)


def _run(run: Run, images: Images, batch: int) -> NDArray[np.float32]:
    return np.concatenate([run(images[i : i + batch]) for i in range(0, len(images), batch)])


def _head(labels: NDArray[np.integer] | None, count: int) -> NDArray[np.integer] | None:
    return None if labels is None else labels[:count]


def _check_same(parity: Parity, *, batch: int) -> None:
    if parity.agreement < MIN_AGREEMENT:
        raise ExportError(
            f"the exported file agrees with the model on {parity.agreement:.4f} of "
            f"{parity.samples} images at batch size {batch}, expected at least {MIN_AGREEMENT}"
        )
    if parity.accuracy_exported != parity.accuracy_torch:
        raise ExportError(
            f"accuracy {parity.accuracy_exported:.4f} of the exported file differs from "
            f"{parity.accuracy_torch:.4f} of the model on {parity.samples} images at batch "
            f"size {batch}"
        )


def _check_alone(parity: Parity) -> None:
    if parity.agreement < MIN_AGREEMENT_ALONE:
        raise ExportError(
            f"the exported file answers {parity.agreement:.4f} of {parity.samples} images at batch "
            f"size 1 as in batches, expected at least {MIN_AGREEMENT_ALONE}"
        )


def check_drop(parity: Parity, max_drop: float) -> None:
    """
    Raises:
        ExportError: the file loses more than ``max_drop`` points of accuracy.
    """
    assert parity.difference is not None and parity.interval is not None
    drop = -100 * parity.difference
    # Accuracies are quotients, so that a drop of exactly max_drop may be some bits above it.
    if drop > max_drop + 1e-9:
        low, high = (-100 * bound for bound in reversed(parity.interval))
        raise ExportError(
            f"the exported file loses {drop:.2f} points of accuracy ({LEVEL:.0%} interval "
            f"{low:.2f} to {high:.2f}): {parity.accuracy_exported:.2%} instead of "
            f"{parity.accuracy_torch:.2%} on {parity.samples} images; expected at most "
            f"{max_drop:g}"
        )


def measure(
    expected: NDArray[np.float32],
    logits: NDArray[np.float32],
    labels: NDArray[np.integer] | None,
) -> Parity:
    """How close an exported file's ``logits`` are to those ``expected``, both (N, classes).

    Raises:
        ExportError: they have another shape, or are not finite.
    """
    if logits.shape != expected.shape:
        raise ExportError(
            f"the exported file returns shape {logits.shape}, the model {expected.shape}"
        )
    if not np.isfinite(logits).all():
        raise ExportError("the exported file returns logits that are not finite")
    rows = np.arange(len(expected))
    top, chosen = expected.argmax(1), logits.argmax(1)
    tied = expected[rows, top] - expected[rows, chosen] <= TIE * np.abs(expected).max(1)
    chosen = np.where(tied, top, chosen)
    agreement = float((chosen == top).mean())
    largest = float(np.abs(logits - expected).max())
    if labels is None:
        return Parity(len(expected), agreement, None, None, None, None, None, largest)
    right, right_exported = top == labels, chosen == labels
    gained, lost = int((right_exported & ~right).sum()), int((right & ~right_exported).sum())
    return Parity(
        samples=len(expected),
        agreement=agreement,
        accuracy_torch=float(right.mean()),
        accuracy_exported=float(right_exported.mean()),
        difference=(gained - lost) / len(expected),
        interval=paired_difference(gained, lost, len(expected)),
        worst_class=_worst_class(labels, right, right_exported),
        max_abs_difference=largest,
    )


def _worst_class(
    labels: NDArray[np.integer], right: NDArray[np.bool_], right_exported: NDArray[np.bool_]
) -> ClassAccuracy | None:
    classes = [
        ClassAccuracy(int(c), float(right[of].mean()), float(right_exported[of].mean()))
        for c in np.unique(labels)
        for of in [labels == c]
    ]
    worst = min(
        classes, key=lambda c: (c.accuracy_exported - c.accuracy_torch, c.accuracy_exported)
    )
    return worst if worst.accuracy_exported < worst.accuracy_torch else None
