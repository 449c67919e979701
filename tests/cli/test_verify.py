"""The command that replays a bundle."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.commands import edufast, one_line


@pytest.fixture
def copy(run, tmp_path):
    """Of a run: an export is noted in its log, and other tests read that of the run."""
    return shutil.copytree(run, tmp_path / "run")


@pytest.fixture
def bundle(copy, tmp_path):
    edufast("export", copy, "--to", "onnx", "--out", tmp_path / "student.edge")
    return tmp_path / "student.edge"


def test_a_bundle_of_a_run_is_verified_and_predicts(bundle, folder) -> None:
    names = ["student.onnx", "student-exit1.onnx", "student-exit2.onnx"]
    shown = edufast("verify", bundle, columns=200).stdout
    assert all(name in shown for name in names) and "100.0%" in shown
    said = [json.loads(line) for line in edufast("verify", bundle, "--json").stdout.splitlines()]
    assert {each["event"] for each in said} == {"verify"}
    assert [each["file"]["name"] for each in said] == names
    assert "8.png" in edufast("predict", bundle, folder / "pictures").stdout


def test_early_exits_are_bundled_verified_and_asked(copy, folder, tmp_path) -> None:
    bundle = tmp_path / "student.edge"
    edufast("export", copy, "--out", bundle, "--early-exit", "100")  # all leave at the first exit
    said = [json.loads(line) for line in edufast("verify", bundle, "--json").stdout.splitlines()]
    assert said[-1]["file"]["name"] == "student-early.onnx" and said[-1]["shares"] == {"1": 1.0}
    assert said[-1]["file"]["early"]["shares"] == [1.0, 0.0, 0.0]
    shown = edufast("verify", bundle)
    assert "student-early.onnx: of 32 images, 100% after 1 of" in one_line(shown)
    assert "…" not in shown.stdout
    picture = folder / "pictures" / "val" / "c1" / "8.png"
    line = json.loads(edufast("predict", bundle, picture, "--json").stdout)
    answers = {each["file"]: each for each in [line, *line["others"]]}
    early, first = answers["student-early.onnx"], answers["student-exit1.onnx"]
    assert (early["exit"], first["exit"]) == (1, None)
    assert early["class"] == first["class"]
    assert early["probability"] == pytest.approx(first["probability"], abs=1e-4)


def test_a_damaged_bundle_ends_with_code_1_and_no_bundle_with_2(bundle, tmp_path) -> None:
    (bundle / "golden.npz").write_bytes(b"")
    assert "golden.npz is damaged" in one_line(edufast("verify", bundle, code=1))
    (bundle / "contract.json").unlink()
    assert "expected a bundle" in one_line(edufast("verify", bundle, code=2))
    assert "expected a bundle" in one_line(edufast("verify", tmp_path / "none", code=2))
