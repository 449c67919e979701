"""Measuring whether the exported file is the same classifier as the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

Run = Callable[[np.ndarray], np.ndarray]
"""Maps a batch of images, in the layout of the file's input, to logits (N, classes) float32."""

MIN_AGREEMENT = 0.999
BATCH = 32
SINGLES = 32  # images that are also run one by one, to check batch size 1
# Two implementations of a float32 network differ by rounding. Classes whose logits differ by less
# than this share of the largest logit are tied: either counts as the top-1 class.
TIE = 1e-4


class ExportError(RuntimeError):
    """The model cannot be exported, or the exported file does not match the model."""


@dataclass(frozen=True)
class Parity:
    """How close the exported file is to the model.

    Attributes:
        samples: images compared.
        agreement: share of images with the same top-1 class in both; a tie within rounding counts
            as the same.
        accuracy_torch: top-1 accuracy of the model, None without labels.
        accuracy_exported: top-1 accuracy of the exported file, None without labels.
        max_abs_difference: largest absolute difference between two logits. For information only:
            agreement and accuracy decide.
    """

    samples: int
    agreement: float
    accuracy_torch: float | None
    accuracy_exported: float | None
    max_abs_difference: float


def compare(
    expected: np.ndarray, run: Run, images: np.ndarray, labels: np.ndarray | None
) -> Parity:
    """Run the exported file and compare it with the model.

    Runs the first `SINGLES` images one by one and then all of them in batches of `BATCH`, because
    the file must work at any batch size.

    Args:
        expected: (N, classes) float32, the model's logits.
        run: runs the exported file.
        images: N >= 2 images in the layout of the file's input.
        labels: (N,) integers, or None.

    Raises:
        ExportError: agreement is below `MIN_AGREEMENT`, or the accuracies differ.
    """
    first = len(images[:SINGLES])
    _check(expected[:first], _run(run, images[:first], 1), _head(labels, first), batch=1)
    return _check(expected, _run(run, images, BATCH), labels, batch=min(BATCH, len(images)))


def torch_logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """(N, classes) float32 logits of ``model`` on (N, C, H, W) float32 images."""
    with torch.inference_mode():
        return _run(lambda batch: model(torch.from_numpy(batch)).numpy(), images, BATCH)


def _run(run: Run, images: np.ndarray, batch: int) -> np.ndarray:
    return np.concatenate([run(images[i : i + batch]) for i in range(0, len(images), batch)])


def _head(labels: np.ndarray | None, count: int) -> np.ndarray | None:
    return None if labels is None else labels[:count]


def _check(
    expected: np.ndarray, logits: np.ndarray, labels: np.ndarray | None, *, batch: int
) -> Parity:
    parity = _measure(expected, logits, labels)
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
    return parity


def _measure(expected: np.ndarray, logits: np.ndarray, labels: np.ndarray | None) -> Parity:
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
    return Parity(
        samples=len(expected),
        agreement=float((chosen == top).mean()),
        accuracy_torch=None if labels is None else float((top == labels).mean()),
        accuracy_exported=None if labels is None else float((chosen == labels).mean()),
        max_abs_difference=float(np.abs(logits - expected).max()),
    )
