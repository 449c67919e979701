"""Importing the operators loads torch and nothing else that is heavy."""

from __future__ import annotations

import json
import subprocess
import sys

# The parent package stands in for edufast/__init__.py, which is not what is looked at here.
IMPORT = """
import importlib.util, json, sys, types
import torch
before = set(sys.modules)
edufast = types.ModuleType("edufast")
edufast.__path__ = list(importlib.util.find_spec("edufast").submodule_search_locations)
sys.modules["edufast"] = edufast
import edufast.ops
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by_importing_ops() -> list[str]:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules: list[str] = json.loads(done.stdout)
    return modules


def test_importing_ops_loads_no_compiler_and_no_optional_package() -> None:
    loaded = loaded_by_importing_ops()
    assert "edufast.ops.kd_loss" in loaded
    for name in (
        "torch._dynamo", "torch._inductor", "triton", "nvidia.dali", "matplotlib", "torchvision",
        "onnx", "edufast.kernels",
    ):  # fmt: skip
        assert [m for m in loaded if m == name or m.startswith(name + ".")] == []


def test_importing_ops_loads_nothing_but_torch_and_the_standard_library() -> None:
    loaded = loaded_by_importing_ops()
    packages = {name.partition(".")[0] for name in loaded}
    assert packages - sys.stdlib_module_names <= {"edufast", "torch"}
    assert len(loaded) <= 30  # of which each is a file that is read
