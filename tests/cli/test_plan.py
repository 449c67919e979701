"""The command that proposes a student for a device."""

from __future__ import annotations

import json

import pytest

from edufast.cli import plan
from edufast.edge.fitting import Candidate
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


def test_eighty_columns_take_every_number_whole(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    needs = 4_395_600_000, 105 << 10, 159_744 << 10, 12.34, True
    plan._print_table([Candidate("torchvision/mobilenet_v3_small", 3, "executorch-int8", *needs)])
    shown = capsys.readouterr().out
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    assert {"4395.6", "159,744", "12.34", "exit", "fits"} <= set(shown.split())


def test_a_student_that_cannot_be_exported_is_named_in_one_line(mypackage) -> None:
    mypackage.write(
        nets="""
        from torch import nn

        def dead(num_classes):
            blocks = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(3)]
            nn.init.constant_(blocks[0][0].bias, -1000.0)
            pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
            return nn.Sequential(*blocks, *pool, nn.Linear(3, num_classes))
    """
    )
    small = "--to", "onnx-int8", "--image-size", 16
    result = edufast("plan", "--models", "mypackage.nets:dead", *small, code=1)
    assert one_line(result).startswith("edufast: mypackage.nets:dead, ended at exit 1: activation")
