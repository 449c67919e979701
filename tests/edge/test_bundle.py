"""Bundles: everything a device needs in one folder, or nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from edufast.edge.bundle import write_bundle
from edufast.edge.contract import Contract
from edufast.edge.parity import ExportError
from edufast.edge.replay import replay
from edufast.models.weights import ModelInfo
from edufast.utils.errors import UserError
from tests.tiny import tiny_data, tiny_model

DATA = tiny_data()
INFO = ModelInfo.describe("tiny", DATA, [3, 5, 0, 1], 0.5, 0, 0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bundle") / "student.edge"
    (report,) = write_bundle(tiny_model(4), INFO, DATA, folder, ["onnx"])
    assert report.path == folder / "student.onnx"
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_holds_what_a_device_needs(bundle) -> None:
    assert set(content(bundle)) == {
        "student.onnx", "contract.json", "golden.npz", "README.md", "predict.py", "bench.py",
    }  # fmt: skip
    contract = Contract.read(bundle)
    assert tuple(contract.classes) == INFO.classes and contract.input["shape"] == ["N", 16, 16, 3]
    assert contract.files[0].images == 32
    with np.load(bundle / "golden.npz") as golden:
        assert golden["images"].shape == (32, 16, 16, 3)
        assert golden["student.onnx"].shape == (32, 4)
    assert "classifier of 4 classes" in (bundle / "README.md").read_text("utf-8")


def test_its_script_predicts(bundle, tmp_path) -> None:
    Image.fromarray(DATA.val.images[0]).save(tmp_path / "a.png")
    command = [sys.executable, "predict.py", "student.onnx", tmp_path / "a.png"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0 and any(name in done.stdout for name in INFO.classes), done.stderr


def test_written_again_it_has_the_same_bytes(bundle, tmp_path) -> None:
    torch.manual_seed(0)
    write_bundle(tiny_model(4), INFO, DATA, tmp_path / "student.edge", ["onnx"])
    assert content(tmp_path / "student.edge") == content(bundle)


def test_an_earlier_bundle_is_replaced_as_a_whole(bundle, tmp_path) -> None:
    shutil.copytree(bundle, tmp_path / "student.edge")
    (tmp_path / "student.edge" / "old").touch()
    write_bundle(tiny_model(4), INFO, DATA, tmp_path / "student.edge", ["onnx"])
    assert set(content(tmp_path / "student.edge")) == set(content(bundle))
    assert [path.name for path in tmp_path.iterdir()] == ["student.edge"]


def test_a_failed_export_leaves_the_earlier_bundle(bundle, tmp_path) -> None:
    shutil.copytree(bundle, tmp_path / "student.edge")
    broken = tiny_model(4)
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    with pytest.raises(ExportError):
        write_bundle(broken, INFO, DATA, tmp_path / "student.edge", ["onnx"])
    assert content(tmp_path / "student.edge") == content(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["student.edge"]


def test_nothing_but_a_bundle_is_replaced(tmp_path) -> None:
    for name, message in (("student", "not a name for a bundle"), ("a.edge", "is not a bundle")):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=message):
            write_bundle(tiny_model(4), INFO, DATA, tmp_path / name, ["onnx"])
        assert list((tmp_path / name).iterdir()) == []


def test_the_contract_is_the_same_for_every_reader(bundle) -> None:
    said = json.loads((bundle / "contract.json").read_text("utf-8"))
    assert said["contract"] == 2 and said["output"] == {
        "name": "logits", "dtype": "float32", "shape": ["N", 4],
    }  # fmt: skip


def test_a_file_for_executorch_is_replayed_too(tmp_path) -> None:
    pytest.importorskip("executorch.runtime")
    torch.manual_seed(0)
    folder = tmp_path / "student.edge"
    write_bundle(tiny_model(4), INFO, DATA, folder, ["executorch", "onnx"])
    assert "predict.py student.onnx" in (folder / "README.md").read_text("utf-8")
    replays = {each.file.name: each for each in replay(folder)}
    assert replays["student.pte"].agreement == 1 and replays["student.pte"].file.exact
    assert replays["student.pte"].alone.runtime.startswith("executorch")
    with np.load(folder / "golden.npz") as golden:
        np.testing.assert_allclose(golden["student.pte"], golden["student.onnx"], atol=1e-4)


def test_a_model_is_replayed_alone_where_the_runtime_of_another_is_missing(
    tmp_path, monkeypatch
) -> None:
    pytest.importorskip("executorch.runtime")
    folder = tmp_path / "student.edge"
    write_bundle(tiny_model(4), INFO, DATA, folder, ["onnx", "executorch"])
    find, run = importlib.util.find_spec, []
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "executorch" else find(name)
    )
    monkeypatch.setattr("edufast.edge.replay.measure_here", lambda path: run.append(path.name))
    with pytest.raises(UserError, match=r"running .pte files needs executorch: pip install"):
        replay(folder)
    assert not run
    (folder / "student.pte").unlink()  # of no concern to the other
    assert [each.file.name for each in replay(folder / "student.onnx")] == run == ["student.onnx"]
    with pytest.raises(UserError, match=r"not a model of its bundle; expected one of student"):
        replay(folder / "predict.py")


def test_the_card_does_not_tell_where_the_data_were(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    for source, shown in (
        ("/home/a:b/pets", "pets"),
        ("cifar100:/home/a:b/data", "cifar100:data"),
        ("digits", "digits"),
    ):
        assert replace(INFO, data=source).data_title == shown
    write_bundle(
        tiny_model(4),
        replace(INFO, data=str(tmp_path / "pets")),
        DATA,
        tmp_path / "a.edge",
        ["onnx"],
    )
    card = (tmp_path / "a.edge" / "README.md").read_text("utf-8")
    assert "`pets`" in card and str(tmp_path) not in card


def test_a_bundle_has_a_file_that_its_script_can_run(tmp_path) -> None:
    pytest.importorskip("executorch.runtime")
    with pytest.raises(UserError, match="expected onnx or onnx-int8 among the formats, not only"):
        write_bundle(tiny_model(4), INFO, DATA, tmp_path / "student.edge", ["executorch"])
    assert not list(tmp_path.iterdir())
