"""The command that writes a trained student as a folder for timm or transformers."""

import pytest
from safetensors.torch import load_file

from edufast.data import load_dataset
from tests.cli.weights import save
from tests.commands import edufast, one_line


@pytest.fixture(scope="module")
def data(folder):
    return load_dataset(str(folder / "pictures"), image_size=16)


@pytest.mark.parametrize("file", ["student.safetensors", "best.safetensors"])
def test_a_run_becomes_a_folder_of_its_student_or_of_the_best_one_so_far(data, tmp_path, file):
    pytest.importorskip("timm")
    weights = save(tmp_path / "run" / file, data, "timm/test_resnet")
    told = one_line(edufast("hub", tmp_path / "run", "-o", tmp_path / "hub"))
    assert "timm/test_resnet for 6 classes" in told
    written = load_file(tmp_path / "hub" / "model.safetensors")
    assert all((tensor == written[name]).all() for name, tensor in load_file(weights).items())


def test_a_student_of_no_such_library_is_refused_in_one_line(data, tmp_path):
    weights = save(tmp_path / "a.safetensors", data)
    told = one_line(edufast("hub", weights, "-o", tmp_path / "hub", code=2))
    assert told.startswith("edufast: model is 'resnet8'; expected timm/<name> or hf/<name>")
    assert not (tmp_path / "hub").exists()


def test_a_folder_without_a_student_is_told_in_one_line(tmp_path):
    told = one_line(edufast("hub", tmp_path, "-o", tmp_path / "hub", code=2))
    assert told.startswith(f"edufast: no model at {tmp_path / 'student.safetensors'}; expected")
