"""Which file is to be used, and what is said of classes and pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edufast.experiments.report.advice import (
    by_class,
    choose,
    confused,
    confusion,
    least_certain,
    most_wrong,
    next_steps,
)
from tests.experiments.report.answered import answers, export

FILE = "student.onnx"


@pytest.mark.parametrize(
    ("files", "chosen", "reason"),
    [
        ([("a", 0.9, 100)], "a", "It is the only file of this run."),
        (
            [("a", 0.9, 300), ("b", 0.895, 100)],
            "b",
            "a is only 0.5 points more accurate, but 3.",
        ),
        (
            [("a", 0.9, 300), ("b", 0.88, 100)],
            "a",
            "the most accurate of 2 files (b: 88.0 %, 100 B",
        ),
        ([("a", 0.6, 300), ("b", 0.65, 100)], "b", "2 files, and it is the smallest (a: 60.0 %"),
        ([("a", 0.9, 300), ("b", 0.9, 100)], "b", "2 files, and it is the smallest"),
        ([("a", 0.9, 300), ("b", 0.895, 200), ("c", 0.891, 100)], "c", "only 0.9 points more"),
    ],
)
def test_a_smaller_file_is_taken_if_it_is_nearly_as_accurate(files, chosen, reason):
    for order in (files, files[::-1]):
        choice = choose([export(*file) for file in order])
        assert choice.file.path == chosen and reason in choice.reason


def test_what_was_not_measured_is_not_chosen():
    assert choose([]) is None and choose([export("a", 0.9, 1, noise=True)]) is None
    assert choose([export("a", 0.9, 1, noise=True), export("b", 0.1, 9)]).file.path == "b"


def test_a_budget_leaves_out_what_does_not_fit():
    files = [
        export("whole", 0.9, 300),
        replace(export("exit", 0.8, 100), exit=1),
        replace(export("integers", 0.85, 90), format="executorch-int8"),
        replace(export("early", 0.9, 50), early={}),
    ]
    assert choose(files, [("onnx", 1), ("onnx-int8", None)]).file.path == "integers"
    several = choose(files[:2], [("onnx", 1), ("onnx", None)])
    assert several.reason.startswith("It is the most accurate of 2 files within its budget (")
    only = choose(files, [("onnx", 1)])
    assert only == (files[1], "It is the only file of this run within its budget.")
    assert choose(files, [("onnx", None)]).file.path == "whole"
    unfit = choose(files, [("onnx-int8", 1), ("onnx-int8", 2)])
    assert unfit.file.path == "early" and unfit.reason.endswith("export RUN --to onnx-int8")


def test_classes_are_summed_up_from_the_least_recognised():
    first, second, *others = by_class(answers(), FILE)
    assert (first.name, first.trained, first.right, first.count) == ("<b>one</b>", 10, 1, 4)
    assert first.rival == ("two", 3) and first.answered == 1
    assert (second.name, second.right, second.rival) == ("four", 3, ('"zero"', 1))
    assert all(s.recall == 1 and s.rival is None for s in others)
    assert {s.name: s.answered for s in others} == {'"zero"': 5, "two": 7, "three": 4, "five": 4}


def test_what_is_taken_for_what_is_counted():
    expected = 4 * np.eye(6, dtype=int)
    expected[1, 1:3] = 1, 3
    expected[4, [0, 4]] = 1, 3
    np.testing.assert_array_equal(confusion(answers(), FILE), expected)
    assert confused(answers(), FILE) == [("<b>one</b>", "two", 3), ('"zero"', "four", 1)]


def test_pictures_are_in_the_order_of_confidence():
    assert most_wrong(answers(), FILE).tolist() == [6, 7, 5, 16]
    assert least_certain(answers(), FILE)[:3].tolist() == [16, 0, 1]


def test_what_to_do_next_names_classes_labels_and_time():
    steps = next_steps(answers(), FILE, 10)
    assert steps[0].endswith(
        "worst: <b>one</b> (1 of 4 recognised, trained on 10); four (3 of 4 recognised, trained "
        "on 40)."
    ) or steps[0].endswith("worst: <b>one</b> (1 of 4 recognised, trained on 10).")
    assert steps[1].startswith("Mixed up most: <b>one</b> and two, 3 times.")
    assert "above 90%: 1 of the 24 pictures" in steps[2]
    assert steps[3].startswith(
        "With only 24 pictures set aside, the accuracy may be anywhere between 6"
    )
    assert steps[4] == "Train longer: --minutes 60 instead of 10."


def test_what_does_not_apply_is_not_said():
    some = answers(confidence=0.6)
    perfect = replace(some, chosen={FILE: some.labels}, labels=some.labels)
    assert len(next_steps(some, FILE, None)) == 3
    assert [step[:8] for step in next_steps(perfect, FILE, None)] == ["With onl"]
    even = some.labels.copy()
    even[::4] = (even[::4] + 1) % 6
    (first, *_) = next_steps(replace(some, chosen={FILE: even}), FILE, None)
    assert first.startswith("Add pictures of all classes: the rarest has 10 for training")
