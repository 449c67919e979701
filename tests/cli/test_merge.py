"""The command that averages files of weights."""

import pytest
import torch
from safetensors.torch import load_file

from edufast.data import load_dataset
from tests.cli.weights import save
from tests.commands import edufast, one_line


@pytest.fixture(scope="module")
def data(folder):
    return load_dataset(str(folder / "pictures"), image_size=16)


def test_merge_averages_models(data, tmp_path):
    weights = [save(tmp_path / f"{name}.safetensors", data) for name in "ab"]
    first, second, merged = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "m"))
    edufast("merge", *weights, "--out", merged, "--weights", "1,3")
    for name in ("fc.weight", "conv1.weight"):
        expected = 0.25 * load_file(first)[name] + 0.75 * load_file(second)[name]
        torch.testing.assert_close(load_file(merged)[name], expected)


def test_one_model_has_no_average(data, tmp_path):
    weights = save(tmp_path / "a.safetensors", data)
    result = edufast("merge", weights, "--out", tmp_path / "m.safetensors", code=2)
    assert "expected two or more" in one_line(result)
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [("1,x", "--weights: '1,x'; expected numbers"), (None, "c.safetensors")],
)
def test_models_that_cannot_be_merged_leave_no_file(data, tmp_path, weights, message):
    files = [save(tmp_path / "a.safetensors", data), save(tmp_path / "b.safetensors", data)]
    options = ["--weights", weights] if weights else []
    if not weights:
        files[1] = save(tmp_path / "c.safetensors", data, classes=range(2))
    result = edufast("merge", *files, "--out", tmp_path / "n.safetensors", *options, code=2)
    text = " ".join(result.stderr.split())
    assert text.startswith("edufast: ") and message in text
    assert not (tmp_path / "n.safetensors").exists()
