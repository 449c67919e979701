"""The command that writes a trained student as files for the edge."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from edufast.data import Samples, load_dataset
from edufast.edge import trained
from edufast.models.weights import load_model, save_model
from edufast.utils.lock import folder_lock, is_locked
from tests.cli.weights import save
from tests.commands import edufast, events, one_line


@pytest.fixture(scope="module")
def data(folder):
    return load_dataset(str(folder / "pictures"), image_size=16)


@pytest.fixture
def copy(run, tmp_path):
    """Of a finished run, before it was exported."""
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx", ".lock"))
    return tmp_path / "run"


def test_a_file_of_weights_becomes_one_file_for_the_edge(data, tmp_path):
    weights = save(tmp_path / "t.safetensors", data)
    result = edufast("export", weights, "--out", tmp_path / "other.onnx", "--json")
    assert json.loads(result.stdout)["agreement"] == 1.0
    session = onnxruntime.InferenceSession(tmp_path / "other.onnx")
    (logits,) = session.run(None, {"image": np.zeros((3, 16, 16, 3), np.uint8)})
    assert logits.shape == (3, 6)


def test_a_run_folder_is_exported_where_it_is(data, tmp_path):
    save(tmp_path / "student.safetensors", data)
    result = edufast("export", tmp_path)
    assert (tmp_path / "student.onnx").is_file()
    assert "student.onnx" in result.stderr and "agreement with PyTorch 100.0%" in " ".join(
        result.stderr.split()
    )


@pytest.mark.parametrize("source", ["", "student.safetensors"])
def test_a_run_that_goes_on_writes_its_files_itself(copy, source):
    with folder_lock(copy):
        text = one_line(edufast("export", copy / source, code=2))
    assert f"in use by process {os.getpid()}" in text
    assert not list(copy.glob("*.onnx"))


def test_nobody_else_writes_into_a_run_while_it_is_exported(copy, monkeypatch):
    """Another export would write files of the same names, and then be refused its record."""
    held, export_trained = [], trained.export_trained

    def watched(*arguments):
        held.append(is_locked(copy))
        return export_trained(*arguments)

    monkeypatch.setattr(trained, "export_trained", watched)
    edufast("export", copy)
    assert held == [True] and not is_locked(copy)


def test_a_class_that_was_renamed_since_is_told(copy, folder, tmp_path):
    """Most classes then have other positions: accuracy would be measured with the wrong labels."""
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    for split in ("train", "val"):
        (tmp_path / "pictures" / split / "c0").rename(tmp_path / "pictures" / split / "d0")
    config = copy / "config.yaml"
    config.write_text(
        config.read_text().replace(str(folder / "pictures"), str(tmp_path / "pictures"))
    )
    text = one_line(edufast("export", copy, code=2))
    assert "learned 'c0' as class 0, which is 'c1' in" in text and not list(copy.glob("*.onnx"))


def test_what_cannot_be_exported_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = edufast("export", "nowhere.safetensors", code=2)
    assert result.stderr.startswith("edufast: no model at nowhere.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_the_model_are_told_in_one_line(data, tmp_path, monkeypatch):
    weights = save(tmp_path / "t.safetensors", data)
    few = replace(data, val=Samples(data.val.images[:8], data.val.labels[:8]))
    monkeypatch.setattr("edufast.experiments.exporting.load_dataset", lambda *_, **__: few)
    text = one_line(edufast("export", weights, code=2))
    assert f"{data.name} has no validation image of class 1, which the model knows" in text
    one = replace(data, val=Samples(data.val.images[:1], data.val.labels[:1]))
    monkeypatch.setattr("edufast.experiments.exporting.load_dataset", lambda *_, **__: one)
    weights = save(tmp_path / "one.safetensors", data, classes=[int(data.val.labels[0])])
    text = one_line(edufast("export", weights, code=2))
    assert text.startswith(f"edufast: {weights}: samples must be uint8 (N >= 2")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_run_is_exported_in_several_formats_with_the_same_numbers_everywhere(copy):
    result = edufast("export", copy, "--to", "onnx,onnx-int8", "--max-drop", 100, "--json")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    names = [
        f"student{part}{suffix}"
        for suffix in (".onnx", ".int8.onnx")
        for part in ("", "-exit1", "-exit2")
    ]
    assert [each["path"] for each in said] == names
    assert [each["format"] for each in said] == ["onnx"] * 3 + ["onnx-int8"] * 3
    assert [each["exit"] for each in said] == [None, 1, 2] * 2
    logged = [e for e in events(copy) if e["event"] == "export"][-6:]
    for name, line, event in zip(names, said, logged, strict=True):
        assert (copy / name).stat().st_size == line["bytes"] and line["samples"] == 48
        known = {key: value for key, value in line.items() if value is not None}
        assert event == known
        low, high = line["interval"]
        assert low <= line["difference"] <= high and line["agreement"] <= 1
        assert line["latency_ms"] <= line["latency_p95_ms"] and line["load_ms"] > 0
        assert line["peak_bytes"] > line["runtime_bytes"] > 0
    page = (copy / "report.html").read_text()
    assert "student.int8.onnx" in page and "student.onnx" in page
    assert said[0]["difference"] == 0 and said[0]["agreement"] == 1


def test_the_table_has_a_column_for_each_file(copy):
    result = edufast("export", copy, "--to", "onnx,onnx-int8", "--max-drop", 100)
    lines = result.stdout.splitlines()
    heads, _, *rows = lines[: len(lines) // 3]
    assert heads.split() == ["student.onnx", "student-exit1.onnx"]
    names = [name for line in lines for name in line.split() if name.endswith(".onnx")]
    assert names[2:] == [
        "student-exit2.onnx",
        "student.int8.onnx",
        "student-exit1.int8.onnx",
        "student-exit2.int8.onnx",
    ]
    assert max(map(len, lines)) <= 80
    cells = {row[:23].strip(): row[23:].split() for row in rows}
    assert cells["format"] == ["onnx"] * 2 and cells["images"] == ["48"] * 2
    assert cells["difference, points"][0] == "+0.00" and cells["agreement"][0] == "100.00%"
    assert len(cells["95 % interval"]) == 6
    # Those before the last two, of the run's end and of this command, are of unfinished students.
    exports = [e for e in events(copy) if e["event"] == "export" and e["path"] == "student.onnx"]
    (accuracy,) = {e["accuracy"] for e in exports[-2:]}
    assert cells["accuracy, file"][0] == f"{accuracy:.2%}"


def test_both_files_predict_pictures(copy, folder):
    edufast("export", copy, "--to", "onnx-int8", "--max-drop", 100)
    pictures = folder / "pictures" / "val"
    lines = edufast("predict", copy / "student.int8.onnx", pictures, "--json").stdout.splitlines()
    right = [
        (line := json.loads(each))["picture"].split("/")[-2] == line["class"] for each in lines
    ]
    (measured,) = [e["accuracy"] for e in events(copy) if e.get("path") == "student.int8.onnx"]
    assert np.mean(right) == pytest.approx(measured)


def test_early_exits_are_written_with_what_they_cost(copy):
    result = edufast("export", copy, "--early-exit", "100", "--json")
    early = json.loads(result.stdout.splitlines()[-1])
    assert early["path"] == "student-early.onnx"
    assert early["early"]["shares"] == [1.0, 0.0, 0.0] and early["early"]["cost"] < 1
    assert (copy / "student-early.onnx").is_file()
    shown = " ".join(edufast("export", copy, "--early-exit", "100").stderr.split())
    assert "100.0% after 1, 0.0% after 2, 0.0% after 3 of 3 fragments; mean cost" in shown
    assert (
        "images that stop: 100.0 % after 1, 0.0 % after 2, 0.0 % after 3 of 3 fragments"
        in (copy / "report.html").read_text()
    )


def test_exits_that_no_longer_belong_to_the_student_are_refused_in_one_line(copy):
    network, info = load_model(copy / "student.safetensors")
    with torch.no_grad():
        network.fc.bias += 1
    save_model(copy / "student.safetensors", network, info)
    assert "has the exits of another student" in one_line(edufast("export", copy, code=2))
    assert not list(copy.glob("*.onnx"))


@pytest.fixture
def fragile(copy):
    """The run with a student in which one feature that does not matter is so large that common
    steps of 8 bits leave nothing of the others."""
    path = copy / "student.safetensors"
    network, info = load_model(path)
    with torch.no_grad():
        network.layer3[-1].bn2.bias[0] = 1e5
        network.fc.weight[:, 0] = 0
    save_model(path, network, info)
    (copy / "exits.safetensors").unlink()  # they are of the student as it was
    return copy


def test_a_student_that_integers_ruin_is_refused_and_no_file_is_left(fragile):
    edufast("export", fragile)  # float32 does not mind
    (fragile / "student.onnx").unlink()
    before = (fragile / "metrics.jsonl").read_text()
    result = edufast("export", fragile, "--to", "onnx,onnx-int8", "--max-drop", 5, code=1)
    assert result.stderr.startswith("edufast: student.int8.onnx: the exported file loses ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("; nothing was written\n")
    assert result.stdout == "" and not list(fragile.glob("*.onnx"))
    assert (fragile / "metrics.jsonl").read_text() == before


def test_a_run_is_verified_on_its_own_split_and_not_on_what_it_trained_with(copy, monkeypatch):
    """By data.holdout and data.seed of its recipe."""
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["recipe"]["data"] |= {"holdout": 0.25, "seed": 3}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    given = []

    def stop(network, info, images, *_):
        given.append(images)
        raise ValueError("seen enough")

    monkeypatch.setattr("edufast.edge.trained.export_trained", stop)
    edufast("export", copy, code=2)
    source = config["recipe"]["data"]["source"]
    expected = load_dataset(source, image_size=16, holdout=0.25, seed=3)
    assert given[0].val.images == expected.val.images
    assert given[0].train.images == expected.train.images
    edufast("export", copy, "--data", source, code=2)
    assert given[1].val.images == load_dataset(source, image_size=16).val.images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "tflite"), "no export format is called 'tflite'; known: onnx, onnx-int8"),
        (("--to", "onnx,"), "no export format is called ''; known: onnx, onnx-int8"),
        (("--to", ""), "--to is ''; expected text"),
        (("--to", "onnx,onnx-int8", "-o", "a.onnx"), "--out names one file, and --to 2 formats"),
        (("-o", "a.tflite"), "cannot export onnx to a.tflite; expected a file name with .onnx"),
        (
            ("--early-exit", "x"),
            "--early-exit is 'x'; expected points of accuracy that may be lost",
        ),
        (("--early-exit", "1"), "--early-exit needs a student with exits; expected the folder of"),
        (("--early-exit", "1", "-o", "a.onnx"), "--out names one file, and --early-exit writes"),
        (("--max-drop", "nan"), "max_drop is nan; expected points of accuracy from 0 to 100"),
        (("--max-drop", "-1"), "max_drop is -1.0; expected points of accuracy from 0 to 100"),
    ],
)
def test_options_that_make_no_sense_are_told_in_one_line(
    data, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "t.safetensors", data)
    result = edufast("export", "t.safetensors", *options, code=2)
    assert message in one_line(result) and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
