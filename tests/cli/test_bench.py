"""Commands that measure: what they refuse. What they measure is tested with edufast.bench."""

import pytest

from tests.commands import edufast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--batch", "64,many"), "--batch: 'many'; expected positive integers"),
        (("train", "--batch", "0"), "--batch: '0'; expected positive integers"),
        (("train", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (("train", "--pairs", "resnet9"), "resnet9"),
        (("kd", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
        (("merge", "--device", "gpu"), "--device is 'gpu'; expected cpu, cuda"),
    ],
)
def test_wrong_input_ends_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = edufast("bench", *arguments, code=2)
    assert result.stderr.startswith("edufast: ") and message in result.stderr
    assert list(tmp_path.iterdir()) == []
