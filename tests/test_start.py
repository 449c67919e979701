"""The commands of docs/start.md, as they are typed, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import edufast, one_line

PAGE = (Path(__file__).parents[1] / "docs/start.md").read_text("utf-8")


def test_the_first_five_minutes_are_as_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("sklearn")
    exec(re.search(r'^\$ python -c "\n(.*?)"$', PAGE, re.MULTILINE | re.DOTALL)[1], {})
    typed = [shlex.split(line) for line in re.findall(r"^\$ edufast (.*)", PAGE, re.MULTILINE)]
    assert [command[0] for command in typed] == ["doctor", "train", "predict", "export"]
    told = {command[0]: edufast(*command) for command in typed}
    trained = one_line(told["train"])
    for recorded in (
        "teacher 0: resnet8, 4 classes",
        "grade 1/3, epoch 1/1",
        "usable: student.onn",
    ):
        assert recorded in PAGE and recorded in trained
    assert re.search(r"seven.png +7 ", told["predict"].stdout)
    for name in re.findall(r"runs/digits/([\w.-]+\.(?:onnx|html))", PAGE):
        assert (tmp_path / "runs/digits" / name).is_file(), name
