"""Importing is free: what a statement or a command does not need, it does not load.

The operators are looked at in tests/ops/test_import.py.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
    "code",
    [
        "import edufast; [getattr(edufast, name) for name in edufast.__all__]",
        command("recipes"),
        command("train", "quickstrat"),
        command("train", "quickstart", "--set", "training.lr=fast"),
    ],
    ids=["every public name", "recipes", "a mistyped recipe", "a bad value"],
)
def test_little_beyond_torch_is_loaded_for(code: str) -> None:
    modules = loaded(code)
    assert "torch" in modules and not modules & HEAVY
