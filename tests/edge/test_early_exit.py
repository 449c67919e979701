"""Programs that end at the first exit that is sure, written and compared with PyTorch's."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from edufast.edge import early_exit, onnx
from edufast.edge.early_exit import write_early_exit
from edufast.edge.exit_choice import Target
from edufast.edge.parity import ExportError
from edufast.edge.preprocess import normalise
from edufast.edge.registry import FORMATS
from edufast.edge.seal import is_damaged
from edufast.student.early_exits import EarlyExit
from tests.edge.students import DATA, original, student_with_exits

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

POINTS = Target(10.0, of_cost=False)


def write(path, name="onnx", target=POINTS):
    given = original(calibrated=FORMATS[name].INTEGERS)
    return write_early_exit(given, student_with_exits(), target, FORMATS[name], path, {"a": "b"})


def answers(path) -> tuple[np.ndarray, np.ndarray]:
    """Logits and depths of the validation images, from the file alone."""
    session = onnxruntime.InferenceSession(path.read_bytes())
    rows = [session.run(["logits", "depth"], {"image": image[None]}) for image in DATA.val.images]
    logits, depths = zip(*rows, strict=True)
    return np.concatenate(logits), np.concatenate(depths)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("early") / "student-early.onnx"
    return path, *write(path)


def test_it_answers_as_early_exits_do_in_pytorch(program) -> None:
    path, early, _ = program
    images = torch.from_numpy(normalise(DATA.val.images, DATA.mean, DATA.std))
    with torch.no_grad():
        expected = EarlyExit(student_with_exits(), early.threshold)(images)
    logits, depths = answers(path)
    assert depths.tolist() == expected.depth.tolist() and len(set(depths.tolist())) > 1
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)


def test_what_is_reported_is_what_the_file_does(program) -> None:
    path, early, parity = program
    logits, depths = answers(path)
    assert early.depths == (1, 2, 3)
    assert early.shares == pytest.approx([(depths == depth).mean() for depth in (1, 2, 3)])
    right = (logits.argmax(1) == DATA.val.labels).mean()
    assert parity.accuracy_exported == pytest.approx(right)
    assert 0 > parity.difference >= -0.1  # of the ten points that it might lose
    assert early.cost < 1
    said = json.loads(
        onnxruntime.InferenceSession(path.read_bytes())
        .get_modelmeta()
        .custom_metadata_map["early_exit"]
    )
    assert said == {
        "threshold": early.threshold,
        "target": "at most 10 points of accuracy lost",
        "depths": [1, 2, 3],
    }


def test_what_an_image_does_not_reach_is_not_computed(program, tmp_path) -> None:
    """Weights of the second exit and of the third that are no numbers do not matter to it."""
    import onnx as package

    path, *_ = program
    _, depths = answers(path)
    model = package.load(path)
    (condition,) = [node for node in model.graph.node if node.op_type == "If"]
    (onward,) = [a.g for a in condition.attribute if a.name == "else_branch"]
    for weights in onward.initializer:
        if weights.data_type == package.TensorProto.FLOAT:
            shape = tuple(weights.dims)
            weights.CopyFrom(
                package.numpy_helper.from_array(np.full(shape, np.nan, np.float32), weights.name)
            )
    package.save(model, tmp_path / "poisoned.onnx")
    logits, _ = answers(tmp_path / "poisoned.onnx")
    assert np.isfinite(logits).all(1).tolist() == (depths == 1).tolist()


def test_it_is_written_with_the_same_bytes_every_time(program, tmp_path) -> None:
    path, *_ = program
    write(tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_integers_choose_a_threshold_of_their_own(tmp_path, capfd, monkeypatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    early, parity = write(tmp_path / "student-early.int8.onnx", "onnx-int8")
    assert capfd.readouterr() == ("", "")  # although the norms of exits stay float32
    _, depths = answers(tmp_path / "student-early.int8.onnx")
    assert early.shares == pytest.approx([(depths == depth).mean() for depth in (1, 2, 3)])
    assert parity.difference >= -0.1 and early.cost < 1
    exact = tmp_path / "student-early.onnx"
    write(exact)
    assert (tmp_path / "student-early.int8.onnx").stat().st_size < exact.stat().st_size


def test_a_mean_cost_can_be_asked_for(tmp_path) -> None:
    early, _ = write(tmp_path / "a.onnx", target=Target(0.9, of_cost=True))
    assert early.cost <= 0.9 and sum(early.shares) == pytest.approx(1)
    with pytest.raises(ExportError, match=r"at most 0\.001 of the whole student's cost: \d+% of"):
        write(tmp_path / "b.onnx", target=Target(0.001, of_cost=True))


def test_a_program_with_another_threshold_than_was_chosen_is_refused(tmp_path, monkeypatch) -> None:
    right = early_exit.with_early_exit
    monkeypatch.setattr(
        early_exit,
        "with_early_exit",
        lambda proto, names, depths, _: right(proto, names, depths, 1),
    )
    with pytest.raises(ExportError, match="images as PyTorch does, at the same exit"):
        write(tmp_path / "a.onnx")


def test_integers_that_lose_more_than_the_target_are_refused(tmp_path, monkeypatch) -> None:
    """Between choosing and measuring, the program is exchanged for one of random answers."""
    monkeypatch.setattr(early_exit, "_check_program", lambda *_: None)
    measured = early_exit._one_by_one

    def exchanged(path, images):
        outputs = measured(path, images)
        return [outputs[0][::-1], outputs[1]] if len(outputs) == 2 else outputs

    monkeypatch.setattr(early_exit, "_one_by_one", exchanged)
    with pytest.raises(
        ExportError, match=r"loses \d+\.\d+ points of accuracy.*expected at most 10"
    ):
        write(tmp_path / "a.onnx")


def test_a_program_that_loses_a_little_more_than_was_counted_gets_a_safer_threshold(
    tmp_path, monkeypatch, program
) -> None:
    """Its first version is wrong on images that the exits had right, one more than allowed."""
    monkeypatch.setattr(early_exit, "_check_program", lambda *_: None)
    measured, versions = early_exit._one_by_one, []
    labels, allowed = DATA.val.labels, len(DATA.val.labels) // 10

    def worse(path, images):
        outputs = measured(path, images)
        if len(outputs) == 2:
            versions.append(outputs[1])
            if len(versions) == 1:
                lost = round(-len(labels) * program[2].difference)
                right = np.flatnonzero(outputs[0].argmax(1) == labels)
                outputs[0][right[: allowed + 1 - lost]] *= -1
        return outputs

    monkeypatch.setattr(early_exit, "_one_by_one", worse)
    early, parity = write(tmp_path / "a.onnx")
    assert len(versions) == 2 and versions[1].sum() >= versions[0].sum()
    assert early.threshold >= program[1].threshold and parity.difference >= -0.1
    assert early.shares == pytest.approx([(versions[1] == depth).mean() for depth in (1, 2, 3)])


def test_it_takes_one_image_at_a_time_and_a_runner_gives_it_several(program) -> None:
    path, *_ = program
    logits, depths = answers(path)
    found = onnx.outputs_of(path)(DATA.val.images)
    assert np.array_equal(found[0], logits) and np.array_equal(found[1], depths)
    assert np.array_equal(onnx.runner(path)(DATA.val.images[:3]), logits[:3])


def test_the_file_is_sealed(program) -> None:
    path, *_ = program
    assert not is_damaged(path.read_bytes())
