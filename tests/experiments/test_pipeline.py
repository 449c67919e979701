"""Stages after the training: done once for the same content."""

from __future__ import annotations

import pytest

from edufast.edge.contract import GOLDEN, BundledFile, Contract, file_hash
from edufast.edge.exit_choice import Target
from edufast.experiments.pipeline import Gates, _is_whole, _made_of, deliver
from edufast.utils.errors import UserError
from edufast.utils.lock import folder_lock

GATES = Gates(("onnx",), 0.5, None)


@pytest.fixture
def folder(tmp_path):
    for name in ("config.yaml", "student.safetensors"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", ["config.yaml", "student.safetensors", "exits.safetensors"])
def test_other_content_is_another_bundle(folder, name) -> None:
    before = _made_of(folder, GATES)
    assert _made_of(folder, GATES) == before
    (folder / name).write_text("other")
    assert _made_of(folder, GATES) != before


@pytest.mark.parametrize(
    "gates",
    [
        Gates(("onnx", "onnx-int8"), 0.5, None),
        Gates(("onnx",), 1.0, None),
        Gates(("onnx",), 0.5, Target(0.5, of_cost=False)),
    ],
)
def test_other_gates_are_another_bundle(folder, gates) -> None:
    assert _made_of(folder, gates) != _made_of(folder, GATES)


@pytest.mark.parametrize("name", ["student.onnx", GOLDEN, "contract.json"])
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_bundle_is_whole_until_one_of_its_files_is_damaged(tmp_path, name, damage) -> None:
    for each in ("student.onnx", GOLDEN):
        (tmp_path / each).write_text(each)
    sha256 = file_hash(tmp_path / "student.onnx")
    file = BundledFile("student.onnx", "onnx", True, sha256, 12, 9, 0.9, 0.9, (-0.01, 0.01))
    Contract(("a", "b"), {}, {}, {}, (file,), file_hash(tmp_path / GOLDEN), {}).write(tmp_path)
    assert _is_whole(tmp_path)
    damage(tmp_path / name)
    assert not _is_whole(tmp_path)


def test_a_run_that_is_not_finished_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="holds no finished student"):
        deliver(tmp_path, GATES)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_in_use_is_left_alone(tmp_path) -> None:
    with folder_lock(tmp_path), pytest.raises(UserError, match="is in use by"):
        deliver(tmp_path, GATES)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
