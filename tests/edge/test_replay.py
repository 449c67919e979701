"""Replaying a bundle: what is damaged, exchanged or answers otherwise is caught."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from edufast.edge.bundle import write_bundle
from edufast.edge.contract import CONTRACT, file_hash
from edufast.edge.replay import ReplayError, replay
from edufast.models.weights import ModelInfo
from tests.tiny import tiny_data, tiny_model

DATA = tiny_data()
INFO = ModelInfo.describe("tiny", DATA, [3, 5, 0, 1], 0.5, 0, 0.0)


@pytest.fixture
def bundle(tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    write_bundle(tiny_model(4), INFO, DATA, tmp_path / "student.edge", ["onnx"])
    return tmp_path / "student.edge"


def vouch(folder, name, key) -> None:
    """Enter the hash that a file has now, as whoever exchanges it knowingly would."""
    said = json.loads((folder / CONTRACT).read_text("utf-8"))
    if key == "golden":
        said["golden"] = file_hash(folder / name)
    else:
        said["files"][0]["sha256"] = file_hash(folder / name)
    (folder / CONTRACT).write_text(json.dumps(said))


def test_a_bundle_answers_as_it_did(bundle) -> None:
    (found,) = replay(bundle)
    assert found.agreement == 1 and found.max_abs_difference == 0 and found.images == 32
    assert found.alone.median_ms > 0


def test_it_takes_no_torch(bundle) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from edufast.edge.replay import replay\n"
        "print(replay(Path(sys.argv[1]))[0].agreement)"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True)
    assert done.stdout == "1.0\n", done.stderr


@pytest.mark.parametrize("name", ["student.onnx", "golden.npz"])
def test_a_flipped_bit_and_a_missing_file_are_named(bundle, name) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(ReplayError, match=f"{name} is damaged or was replaced"):
        replay(bundle)
    (bundle / name).unlink()
    with pytest.raises(ReplayError, match=f"{name} is missing"):
        replay(bundle)


def test_another_students_file_answers_otherwise(bundle, tmp_path) -> None:
    torch.manual_seed(1)
    write_bundle(tiny_model(4), INFO, DATA, tmp_path / "other.edge", ["onnx"])
    (tmp_path / "other.edge" / "student.onnx").replace(bundle / "student.onnx")
    vouch(bundle, "student.onnx", "files")
    with pytest.raises(ReplayError, match="gives logits that differ by up to"):
        replay(bundle)


@pytest.mark.parametrize(("wrong", "refused"), [(3, False), (4, True)])
def test_integers_may_change_one_answer_of_ten(bundle, wrong, refused) -> None:
    said = json.loads((bundle / CONTRACT).read_text("utf-8"))
    said["files"][0]["exact"] = False
    (bundle / CONTRACT).write_text(json.dumps(said))
    with np.load(bundle / "golden.npz") as golden:
        arrays = dict(golden)
    rows = arrays["student.onnx"]
    rows[:wrong] = np.eye(4, dtype=np.float32)[(rows[:wrong].argmax(1) + 1) % 4]
    np.savez(bundle / "golden.npz", **arrays)
    vouch(bundle, "golden.npz", "golden")
    if refused:
        with pytest.raises(ReplayError, match="recorded class for 88% of 32 images"):
            replay(bundle)
    else:
        assert replay(bundle)[0].agreement == 29 / 32


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"images": [0]},
        {"student.onnx": np.zeros((32, 5))},
        {"student.onnx": np.full((32, 4), "1.0")},
        {"student.onnx": np.zeros((0, 4)), "images": np.zeros((0, 16, 16, 3), np.uint8)},
    ],
)
def test_golden_images_of_another_bundle_are_one_line(bundle, arrays) -> None:
    with np.load(bundle / "golden.npz") as golden:
        kept = dict(golden) if "student.onnx" in arrays else {}
    np.savez(bundle / "golden.npz", **(kept | arrays))
    vouch(bundle, "golden.npz", "golden")
    with pytest.raises(
        ReplayError, match=r"lacks answers of a file|gives logits|has no images"
    ) as error:
        replay(bundle)
    assert "\n" not in str(error.value)
