"""tools/soak.py: what it calls growth, and another training."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file


def soak_tool() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    return soak_tool()


@pytest.mark.parametrize(
    ("memory", "threads", "descriptors", "found"),
    [
        (0, 0, 0, []),
        (1e6, 0, 0, ["memory"]),
        (0, 0.1, 0, ["threads"]),
        (1e6, 0, 0.1, ["memory", "descriptors"]),
    ],
)
def test_what_grows_to_the_end_is_told(
    soak: ModuleType, memory: float, threads: float, descriptors: float, found: list[str]
) -> None:
    samples = [
        soak.Use(int(4e8 + memory * i), int(10 + threads * i), int(40 + descriptors * i))
        for i in range(100)
    ]
    beginning = [soak.Use(10**6, 1, 3)] * 40  # what begins grows
    assert [text.split()[0] for text in soak.grown([*beginning, *samples])] == found


def test_other_weights_are_told(soak: ModuleType, tmp_path: Path) -> None:
    weights = torch.arange(4.0)
    for run in ("whole", "stopped"):
        (tmp_path / run).mkdir()
        save_file({"a": weights}, tmp_path / run / "student.safetensors")
    assert soak.same(tmp_path)
    save_file({"a": weights.nextafter(torch.zeros(4))}, tmp_path / "stopped/student.safetensors")
    assert not soak.same(tmp_path)
