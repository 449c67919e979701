"""The .pte file: what of it is ExecuTorch's. The rest is in test_one_image.py."""

from __future__ import annotations

import pytest

from edufast.edge.export import export
from edufast.edge.pte import versions
from tests.edge.cases import CLASSES, MEAN, SIZE, STD

pytest.importorskip("executorch")


def test_the_layers_are_run_by_xnnpack(model, tmp_path) -> None:
    from executorch.exir._serialize._program import deserialize_pte_binary

    path = tmp_path / "student.pte"
    export(model, path, to="executorch", input_size=SIZE, classes=CLASSES, mean=MEAN, std=STD)
    plans = deserialize_pte_binary(path.read_bytes()).program.execution_plan
    (forward,) = [plan for plan in plans if plan.name == "forward"]
    assert {delegate.id for delegate in forward.delegates} == {"XnnpackBackend"}
    assert not {op.name for op in forward.operators} & {"aten::convolution", "aten::addmm"}


def test_versions_are_those_that_determine_the_file() -> None:
    assert versions().keys() == {"torch", "executorch"}
