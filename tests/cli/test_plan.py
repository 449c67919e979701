"""The command that proposes a student for a device."""

from __future__ import annotations

import json

import pytest

from tests.commands import edufast, one_line

SMALL = ("--models", "resnet8", "--to", "onnx-int8", "--image-size", 16)


def test_the_largest_that_fits_is_proposed_and_the_rest_shown() -> None:
    result = edufast("plan", "--flash", "64k", "--ram", "20k", "--latency", "9999ms", *SMALL)
    rows = [line.split() for line in result.stdout.splitlines()[2:]]
    assert [(row[1], row[-1]) for row in rows] == [("1", "yes"), ("2", "yes"), ("3", "no")]
    assert one_line(result) == (
        "proposed: resnet8, ended at exit 2 of 3 fragments, as onnx-int8 "
        "(--set student.model=resnet8)"
    )


def test_without_limits_the_whole_student_is_proposed() -> None:
    result = edufast("plan", *SMALL, "--json")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["exit"] for each in said] == [1, 2, 3] and all(each["fits"] for each in said)
    assert "proposed: resnet8, whole, as onnx-int8" in one_line(result)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--flash", "64kb"), 2, "--flash is '64kb'; expected bytes, such as 131072, 128k or 1M"),
        (("--ram", "-1"), 2, "--ram is '-1'; expected bytes"),
        (("--latency", "5s"), 2, "--latency is '5s'; expected milliseconds, such as 5ms"),
        (("--models", "resnet9"), 2, "resnet9"),
        (("--to", "tflite"), 2, "no export format is called 'tflite'"),
        (("--ram", "1k"), 1, "nothing fits; expected a larger budget"),
    ],
)
def test_what_makes_no_sense_or_does_not_fit_is_one_line(options, code, message) -> None:
    arguments = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {options[0]: options[1]}
    flat = [each for pair in arguments.items() for each in pair]
    assert message in one_line(edufast("plan", *flat, code=code))
