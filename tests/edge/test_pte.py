"""The .pte file: what is in it, that it is reproducible, and that ExecuTorch alone can run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edufast
from edufast.edge.export import export
from edufast.edge.parity import ExportError
from edufast.edge.pte import read_metadata, runner
from edufast.edge.seal import sealed
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, normalised, reference

pytest.importorskip("executorch.runtime")

OPTIONS = {"to": "executorch", "input_size": SIZE, "classes": CLASSES}


@pytest.fixture(scope="module")
def written(model, samples, answers, tmp_path_factory):
    path = tmp_path_factory.mktemp("pte") / "student.pte"
    report = export(
        model, path, samples=samples, labels=answers, mean=MEAN, std=STD,
        metadata={"recipe": "digits"}, **OPTIONS,
    )  # fmt: skip
    return path, report


def test_it_says_what_it_is_and_how_it_does(written) -> None:
    path, report = written
    said = read_metadata(path)
    assert said["classes"] == CLASSES and said["recipe"] == "digits"
    assert said["preprocessing"]["mean"] == MEAN
    assert said["versions"].keys() == {"torch", "executorch"}
    assert report.opset is None and report.to_dict()["format"] == "executorch"
    assert report.alone.runtime.startswith("executorch ")
    assert report.alone.peak_bytes > report.alone.runtime_bytes > 0


def test_the_layers_are_run_by_xnnpack(written) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    plans = deserialize_pte_binary(written[0].read_bytes()).program.execution_plan
    (forward,) = [plan for plan in plans if plan.name == "forward"]
    assert {delegate.id for delegate in forward.delegates} == {"XnnpackBackend"}
    assert not {op.name for op in forward.operators} & {"aten::convolution", "aten::addmm"}


def test_exporting_again_gives_the_same_bytes_with_no_trace_of_the_machine(
    written, model, tmp_path
) -> None:
    again = tmp_path / "again.pte"
    export(model, again, mean=MEAN, std=STD, metadata={"recipe": "digits"}, **OPTIONS)
    content = again.read_bytes()
    assert content == written[0].read_bytes()
    for word in (str(Path(__file__).parent), str(Path(torch.__file__).parent), ".py"):
        assert word.encode() not in content


def test_without_constants_images_come_normalised(model, samples, tmp_path) -> None:
    path = tmp_path / "student.pte"
    images = normalised(samples).numpy()
    export(model, path, samples=images, **OPTIONS)
    np.testing.assert_allclose(runner(path)(images[:3]), reference(model, samples[:3]), atol=1e-4)


def test_a_model_that_cannot_be_traced_is_one_line_and_no_file(samples, tmp_path) -> None:
    class Branches(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    path = tmp_path / "student.pte"
    with pytest.raises(ExportError, match=r"^ExecuTorch cannot take this model: .*") as caught:
        export(Branches(), path, **(OPTIONS | {"classes": None}))
    assert "\n" not in str(caught.value) and not path.exists()


def test_what_is_no_program_is_refused(tmp_path) -> None:
    path = tmp_path / "student.pte"
    path.write_bytes(sealed(b"no program at all, not even a header of one" * 9))
    with pytest.raises(ExportError, match=r"^ExecuTorch cannot load .*student.pte: "):
        runner(path)


@pytest.mark.parametrize("at", [0, 1000, -100, -1])
def test_a_flipped_bit_is_noticed(written, tmp_path, at: int) -> None:
    content = bytearray(written[0].read_bytes())
    content[at] ^= 1
    path = tmp_path / "student.pte"
    path.write_bytes(content)
    for read in (runner, read_metadata):
        with pytest.raises(ExportError, match=r"student.pte is damaged"):
            read(path)


def test_the_script_measures_it_with_the_golden_images(written, samples, tmp_path) -> None:
    script = Path(edufast.__file__).parent / "edge" / "device.py"
    (tmp_path / "student.pte").write_bytes(written[0].read_bytes())
    np.savez(tmp_path / "golden.npz", images=samples[:4])
    command = [sys.executable, script, tmp_path / "student.pte"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = json.loads(done.stdout)
    assert row["file"] == "student.pte" and row["sha256"] == written[1].alone.sha256
    assert row["median_ms"] > 0 and row["load_ms"] > 0


def test_another_model_under_the_same_name_is_noticed(written, model, samples, answers) -> None:
    """Verification compares what the file computes, not what was to be written."""
    from edufast.edge.export import verify

    other = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SIZE)), len(CLASSES)))
    with pytest.raises(ExportError, match="agree"):
        verify(other, written[0], samples, to="executorch", labels=answers, mean=MEAN, std=STD)
    verify(model, written[0], samples, to="executorch", labels=answers, mean=MEAN, std=STD)
