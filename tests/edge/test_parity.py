"""The comparison of an exported file with its model: what it lets pass and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge import parity
from edufast.edge.intervals import paired_difference
from edufast.edge.parity import ExportError


def run_of(logits: np.ndarray) -> parity.Run:
    """A stand-in for an exported file: image i carries its own number."""
    return lambda images: logits[images]


def test_gates() -> None:
    expected = np.eye(4, dtype=np.float32)[np.arange(4000) % 4]
    images, labels = np.arange(4000), np.arange(4000) % 4
    rounded = expected + np.float32(1e-6)
    assert parity.compare(expected, run_of(rounded), images, labels).agreement == 1

    few, many = expected.copy(), expected.copy()
    few[100:104] = np.roll(few[100:104], 1, axis=1)  # 0.999 agree, and the accuracy differs
    many[100:105] = np.roll(many[100:105], 1, axis=1)
    assert parity.compare(expected, run_of(few), images, None).agreement == 0.999
    with pytest.raises(ExportError, match=r"accuracy 0\.9990 of the exported file differs from 1"):
        parity.compare(expected, run_of(few), images, labels)
    with pytest.raises(ExportError, match=r"0\.9988 of 4000 images"):
        parity.compare(expected, run_of(many), images, None)


def test_ties_within_rounding_agree() -> None:
    expected = np.array([[1.0, 1.0 - 1e-6, 0.0]] * 8, dtype=np.float32)
    flipped = expected[:, [1, 0, 2]]
    images = np.arange(8)
    assert parity.compare(expected, run_of(flipped), images, np.zeros(8, int)).agreement == 1
    with pytest.raises(ExportError):
        parity.compare(expected, run_of(expected[:, [1, 2, 0]]), images, None)


def test_a_file_must_do_at_batch_1_what_it_does_in_batches() -> None:
    expected = np.eye(4, dtype=np.float32)[np.arange(64) % 4]
    batches = []

    def wrong_alone(images: np.ndarray) -> np.ndarray:
        batches.append(len(images))
        return expected[images] if len(images) > 1 else -expected[images]

    with pytest.raises(ExportError, match=r"at batch size 1, expected at least 0\.999"):
        parity.compare(expected, wrong_alone, np.arange(64), None)
    assert set(batches) == {1}

    batches.clear()
    with pytest.raises(ExportError, match=f"at batch size {parity.BATCH}, expected"):
        parity.compare(expected, lambda i: -wrong_alone(i), np.arange(64), None)
    assert batches == [1] * parity.SINGLES + [parity.BATCH] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits[:, :2], r"returns shape \(32, 2\), the model \(32, 3\)"),
        (lambda logits: np.where(logits > 0, np.nan, logits), "logits that are not finite"),
    ],
)
def test_logits_of_another_shape_or_not_finite_are_refused(change, message) -> None:
    expected = np.eye(3, dtype=np.float32)[np.arange(40) % 3]
    with pytest.raises(ExportError, match=message):
        parity.compare(expected, lambda images: change(expected[images]), np.arange(40), None)


def test_logits_of_torch_come_in_the_order_of_the_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    images = np.random.default_rng(0).standard_normal((70, 3, 2, 2), dtype=np.float32)
    logits = parity.torch_logits(model, images, np.copy)
    assert logits.shape == (70, 5) and logits.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.from_numpy(images)), atol=1e-6)


def answers(classes: np.ndarray) -> np.ndarray:
    """Logits that say these classes."""
    return np.eye(4, dtype=np.float32)[classes]


def test_what_is_lost_is_measured_in_pairs_and_per_class() -> None:
    labels = np.arange(400) % 4
    ours, theirs = labels.copy(), labels.copy()
    ours[:8] = 3 - ours[:8]  # wrong: two of each class
    theirs[4:8] = 3 - theirs[4:8]  # one of each, so that four are gained
    theirs[101:401:20] = 0  # fifteen of class 1 are lost
    found = parity.compare(
        answers(ours), run_of(answers(theirs)), np.arange(400), labels, max_drop=3
    )
    assert found.accuracy_torch == 392 / 400 and found.accuracy_exported == 381 / 400
    assert found.difference == pytest.approx(-11 / 400)
    assert found.interval == paired_difference(4, 15, 400)
    assert found.worst_class == parity.ClassAccuracy(1, 98 / 100, 84 / 100)
    assert found.agreement == 381 / 400


def test_of_classes_that_lose_alike_the_least_accurate_is_named() -> None:
    labels = np.arange(40) % 4
    ours = np.where((labels == 2) & (np.arange(40) < 20), 0, labels)
    theirs = ours.copy()
    theirs[[37, 38]] = 0  # of classes 1 and 2
    images = np.arange(40)
    found = parity.compare(answers(ours), run_of(answers(theirs)), images, labels, max_drop=10)
    assert found.worst_class == parity.ClassAccuracy(2, 0.5, 0.4)
    same = parity.compare(answers(ours), run_of(answers(ours)), images, labels)
    assert same.worst_class is None, "nothing is lost where a class was bad before"


def test_integers_may_lose_up_to_max_drop_and_not_more() -> None:
    labels = np.arange(1000) % 4
    less = labels.copy()
    less[-5:] = 3 - less[-5:]
    images, run = np.arange(1000), run_of(answers(less))
    assert parity.compare(answers(labels), run, images, labels, max_drop=0.5).agreement == 0.995
    message = (
        r"loses 0\.50 points of accuracy \(95% interval 0\.02 to 0\.98\): 99\.50% instead of "
        r"100\.00% on 1000 images; expected at most 0\.49$"
    )
    with pytest.raises(ExportError, match=message):
        parity.compare(answers(labels), run, images, labels, max_drop=0.49)
    gained = parity.compare(answers(less), run_of(answers(labels)), images, labels, max_drop=0)
    assert gained.difference == pytest.approx(0.005)


def test_integers_must_answer_alone_as_in_batches() -> None:
    labels = np.arange(64) % 4
    logits = answers(labels)

    def run(images: np.ndarray) -> np.ndarray:
        return logits[images] if len(images) > 1 else logits[(images + 1) % 64]

    with pytest.raises(ExportError, match=r"answers 0\.0000 of 32 images at batch size 1 as in"):
        parity.compare(logits, run, np.arange(64), labels, max_drop=100)
