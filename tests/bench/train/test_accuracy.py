"""The accuracy of the plain loop beside that of the School, after the same number of steps."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

from edufast.bench.train import accuracy, peers
from edufast.data import Augment
from tests.tiny import tiny_data


@pytest.mark.parametrize(
    ("values", "text"),
    [([0.5], "50.0"), ([0.5, 0.7], "60.0 ± 14.1"), ([0.25, 0.25, 0.25], "25.0 ± 0.0")],
)
def test_a_spread_is_mean_and_standard_deviation_in_percent(values, text):
    assert accuracy.spread(values) == text


@pytest.fixture
def small(monkeypatch):
    """Six classes, three teachers, a few steps."""
    settings = {
        "STUDENT": "resnet8",
        "TEACHER": "resnet8",
        "SLICES": [(0, 2), (2, 4), (4, 6)],
        "BATCH_SIZE": 12,
        "STEPS": 2,
        "TEACHER_EPOCHS": 1,
        "AUGMENT": Augment(pad=1, flip=False),
    }
    for name, value in settings.items():
        monkeypatch.setattr(accuracy, name, value)
    monkeypatch.setattr(peers, "WORKERS", 0)  # starting them takes longer than the images
    monkeypatch.setattr(accuracy, "load_dataset", lambda name: tiny_data(per_class=6))


def test_both_ways_teach_a_student_a_seed(small):
    messages = []
    result = accuracy.compare(2, torch.device("cpu"), messages.append)
    assert (result["data"], result["steps"], result["batch_size"]) == ("tiny", 2, 12)
    assert messages == [
        "teacher 1 of 3",
        "teacher 2 of 3",
        "teacher 3 of 3",
        "(a) plain loop: student 1 of 2",
        "(c) School: student 1 of 2",
        "(a) plain loop: student 2 of 2",
        "(c) School: student 2 of 2",
    ]
    assert list(result["accuracy"]) == [accuracy.PLAIN, accuracy.PROJECT]
    for values in result["accuracy"].values():
        assert len(values) == 2
        assert all((48 * value).is_integer() and 0 <= value <= 1 for value in values)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(accuracy.table(result))
    shown = capture.get()
    assert "resnet8 on tiny, 2 steps" in shown
    assert all(accuracy.spread(values) in shown for values in result["accuracy"].values())
