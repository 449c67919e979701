"""Importing is free: what a statement or a command does not need, it does not load.

The operators are looked at in tests/ops/test_import.py.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

# Seconds of loading each, or packages that an installation may lack.
HEAVY = {
    "matplotlib",
    "nvidia.dali",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "timm",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
    "transformers",
}


def loaded(code: str) -> set[str]:
    """Names of the modules that a fresh Python has loaded after running ``code``."""
    code += "\nimport json, sys; print(json.dumps(list(sys.modules)), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    ("code", "most"),
    [("pass", 75), ("import edufast", 90), ("import edufast.cli", 420)],
    ids=["nothing", "import edufast", "the command line"],
)
def test_few_modules_are_loaded_for(code: str, most: int) -> None:
    """A count, which no busy machine changes: what a statement costs grows with it."""
    assert len(loaded(code)) <= most


def command(*arguments: str) -> str:
    return f"from edufast.cli import app\ntry: app({list(arguments)})\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    "code",
    ["import edufast", command("--help"), command("--version"), command("train", "--help")],
    ids=["import edufast", "--help", "--version", "train --help"],
)
def test_torch_is_not_loaded_for(code: str) -> None:
    assert not loaded(code) & {"torch", "numpy", "triton", *HEAVY}


@pytest.mark.parametrize(
    "arguments",
    [("train", "quickstrat"), ("compare", "quickstart", "--set", "training.lr=fast")],
    ids=["a mistyped recipe", "a bad value"],
)
def test_a_slip_in_a_recipe_is_told_without_torch(arguments: tuple[str, ...]) -> None:
    assert not loaded(command(*arguments)) & {"torch", "triton", *HEAVY}


def test_predicting_loads_onnxruntime_but_no_torch(tmp_path) -> None:
    from edufast.edge.export import export

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    options = {"classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.2] * 3}
    export(model, tmp_path / "student.onnx", input_size=(3, 8, 8), **options)
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    modules = loaded(command("predict", str(tmp_path), str(tmp_path / "a.png"), "--json"))
    assert {"onnxruntime", "PIL"} <= modules
    assert not modules & {"torch", "triton", *HEAVY} - {"onnxruntime"}


@pytest.mark.parametrize(
    "code",
    [
        "import edufast; [getattr(edufast, name) for name in edufast.__all__]",
        command("recipes"),
        command("train", "quickstart", "--set", "algorithm.name=magic"),
    ],
    ids=["every public name", "recipes", "an unknown algorithm"],
)
def test_little_beyond_torch_is_loaded_for(code: str) -> None:
    modules = loaded(code)
    assert "torch" in modules and not modules & HEAVY
