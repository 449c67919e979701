"""From an ONNX program with several exits to one that ends at the first confident exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edufast.edge.onnx import OUTPUT

if TYPE_CHECKING:
    import onnx

DEPTH = "depth"


def with_early_exit(
    proto: onnx.ModelProto, exits: Sequence[str], depths: Sequence[int], threshold: float
) -> onnx.ModelProto:
    """A program for one image at a time, with outputs ``logits`` (1, classes) and ``depth`` (1,).

    What only later exits need is moved into the other branch of a condition, so that a runtime
    computes it for those images only that an exit is not sure of.

    Args:
        proto: maps images to logits at every exit, with any batch size.
        exits: names of its outputs, from the first exit to the last; none is ``logits``.
        depths: of the exits: what ``depth`` says.
        threshold: an image leaves at the first exit that gives some class this probability, or else
            at the last.
    """
    import onnx

    program = onnx.ModelProto()
    program.CopyFrom(proto)
    graph = program.graph
    stages = _Stages(graph, exits)
    nodes, constants, logits, depth = _from_stage(stages, 0, exits, depths, threshold)
    nodes.append(onnx.helper.make_node("Identity", [logits], [OUTPUT]))
    nodes.append(onnx.helper.make_node("Identity", [depth], [DEPTH]))
    classes = graph.output[-1].type.tensor_type.shape.dim[1].dim_value
    for field, content in (
        ("node", nodes),
        ("initializer", constants),
        ("value_info", []),
        ("output", _outputs(OUTPUT, DEPTH, [1, classes])),
    ):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    batch.Clear()
    batch.dim_value = 1
    onnx.checker.check_model(program, full_check=True)
    return program


class _Stages:
    """The nodes of ``graph`` and its constants, by the first of ``exits`` that needs them."""

    def __init__(self, graph: onnx.GraphProto, exits: Sequence[str]) -> None:
        made_by = {name: i for i, node in enumerate(graph.node) for name in node.output}
        constants = {constant.name: constant for constant in graph.initializer}
        self.nodes: list[list[onnx.NodeProto]] = []
        self.constants: list[list[onnx.TensorProto]] = []
        seen: set[str] = set()
        for name in exits:
            needed, waiting = set[int](), [name]
            here = []
            while waiting:
                value = waiting.pop()
                if value in seen:
                    continue
                seen.add(value)
                if value in constants:
                    here.append(constants[value])
                elif value in made_by:
                    needed.add(made_by[value])
                    waiting += graph.node[made_by[value]].input
            self.nodes.append([graph.node[i] for i in sorted(needed)])
            self.constants.append(here)


def _from_stage(
    stages: _Stages, k: int, exits: Sequence[str], depths: Sequence[int], threshold: float
) -> tuple[list[Any], list[Any], str, str]:
    """Nodes and constants of stage ``k`` and those that follow it, and the names of what they
    compute: logits and depth."""
    from onnx import TensorProto, helper

    nodes, constants, answer = list(stages.nodes[k]), list(stages.constants[k]), exits[k]
    here = helper.make_tensor(f"depth{k}", TensorProto.INT64, [1], [depths[k]])
    if k == len(exits) - 1:
        nodes.append(helper.make_node("Constant", [], [f"last{k}"], value=here))
        return nodes, constants, answer, f"last{k}"
    inside, weights, logits, depth = _from_stage(stages, k + 1, exits, depths, threshold)
    onward = helper.make_graph(inside, f"after{k}", [], _outputs(logits, depth), weights)
    leave = helper.make_graph(
        [
            helper.make_node("Identity", [answer], [f"left{k}"]),
            helper.make_node("Constant", [], [f"here{k}"], value=here),
        ],
        f"exit{k}",
        [],
        _outputs(f"left{k}", f"here{k}"),
    )
    limit = helper.make_tensor(f"threshold{k}", TensorProto.FLOAT, [], [threshold])
    nodes += [
        helper.make_node("Softmax", [answer], [f"probabilities{k}"], axis=1),
        helper.make_node("ReduceMax", [f"probabilities{k}"], [f"confidence{k}"], keepdims=0),
        helper.make_node("Constant", [], [f"limit{k}"], value=limit),
        helper.make_node("GreaterOrEqual", [f"confidence{k}", f"limit{k}"], [f"sure{k}"]),
        helper.make_node(
            "If",
            [f"sure{k}"],
            [f"answer{k}", f"taken{k}"],
            then_branch=leave,
            else_branch=onward,
        ),
    ]
    return nodes, constants, f"answer{k}", f"taken{k}"


def _outputs(logits: str, depth: str, shape: list[int] | None = None) -> list[onnx.ValueInfoProto]:
    from onnx import TensorProto, helper

    return [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(depth, TensorProto.INT64, [1]),
    ]
