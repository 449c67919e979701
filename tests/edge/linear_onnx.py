"""A layer as an .onnx file."""

from __future__ import annotations

from pathlib import Path

from torch import nn


def write_linear(
    path: Path,
    linear: nn.Sequential,
    kind: str = "FLOAT",
    shape: tuple[int | str, ...] = ("n", 3, 16, 16),
) -> Path:
    """The layer as another program may write it."""
    from onnx import TensorProto, helper, numpy_helper

    weight, bias = (parameter.detach().numpy() for parameter in linear[1].parameters())
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["cast"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"], transB=1),
        ],
        "linear",
        [helper.make_tensor_value_info("images", getattr(TensorProto, kind), shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(bias)])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    opset = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    )
    return path
