"""The command that replays a bundle."""

from __future__ import annotations

import json

import pytest

from tests.commands import edufast, one_line


@pytest.fixture
def bundle(run, tmp_path):
    edufast("export", run, "--to", "onnx", "--out", tmp_path / "student.edge")
    return tmp_path / "student.edge"


def test_a_bundle_of_a_run_is_verified_and_predicts(bundle, folder) -> None:
    shown = edufast("verify", bundle).stdout
    assert "student.onnx" in shown and "100.0%" in shown
    said = json.loads(edufast("verify", bundle, "--json").stdout)
    assert said["event"] == "verify" and said["file"]["name"] == "student.onnx"
    assert "8.png" in edufast("predict", bundle, folder / "pictures").stdout


def test_a_damaged_bundle_ends_with_code_1_and_no_bundle_with_2(bundle, tmp_path) -> None:
    (bundle / "golden.npz").write_bytes(b"")
    assert "golden.npz is damaged" in one_line(edufast("verify", bundle, code=1))
    (bundle / "contract.json").unlink()
    assert "expected a bundle" in one_line(edufast("verify", bundle, code=2))
    assert "expected a bundle" in one_line(edufast("verify", tmp_path / "none", code=2))
