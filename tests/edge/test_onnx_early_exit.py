"""Cutting an ONNX program with several outputs at its exits."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.edge.onnx_early_exit import with_early_exit

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Logits are the image's numbers times 1, 10 and 100; a constant is shared by all exits.
TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
scaled (float[batch, 2] image) => (float[batch, 2] a, float[batch, 2] b, float[batch, 2] c)
<float one = {1.0}, float ten = {10.0}>
{
  a = Mul(image, one)
  more = Mul(a, ten)
  b = Mul(more, one)
  most = Mul(more, ten)
  c = Mul(most, one)
}
"""


def run(threshold: float, image: list[float]) -> tuple[list[float], int]:
    program = with_early_exit(onnx.parser.parse_model(TEXT), ["a", "b", "c"], [2, 5, 7], threshold)
    session = onnxruntime.InferenceSession(program.SerializeToString())
    assert [each.name for each in session.get_outputs()] == ["logits", "depth"]
    logits, depth = session.run(None, {"image": np.array([image], np.float32)})
    return logits[0].tolist(), int(depth[0])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ([5.0, 0.0], ([5.0, 0.0], 2)),
        ([0.5, 0.0], ([5.0, 0.0], 5)),
        ([0.05, 0.0], ([5.0, 0.0], 7)),
        ([0.0, 0.0], ([0.0, 0.0], 7)),  # nowhere sure: the last exit
    ],
)
def test_an_image_leaves_at_the_first_exit_that_is_sure(image, expected) -> None:
    logits, depth = run(0.99, image)
    assert (logits, depth) == (pytest.approx(expected[0]), expected[1])


def test_thresholds_at_the_ends() -> None:
    assert run(0.0, [0.0, 0.0]) == ([0.0, 0.0], 2)
    assert run(1.0, [0.01, 0.0])[1] == 7


def test_the_given_program_is_not_changed() -> None:
    given = onnx.parser.parse_model(TEXT)
    before = given.SerializeToString()
    with_early_exit(given, ["a", "b", "c"], [1, 2, 3], 0.5)
    assert given.SerializeToString() == before
