"""What an installation can do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

import torch

from edufast import _native
from edufast.ops.backends import CHOICES


@dataclass(frozen=True)
class Check:
    """One finding; ``needed`` tells whether the package is broken without it."""

    what: str
    ok: bool
    found: str
    needed: bool = False


def diagnose() -> list[Check]:
    """Look at this installation. Starts nothing and changes nothing."""
    cuda = torch.cuda.is_available()
    built_for_cuda = _native.cuda.startswith("nvcc")
    return [
        Check("EduFast", True, _native.version, needed=True),
        Check("Python", True, platform.python_version(), needed=True),
        Check("torch", True, torch.__version__, needed=True),
        Check(
            "operators",
            hasattr(torch.ops.edufast, "kd_loss"),
            f"built with {_native.cxx} and torch {_native.torch}, stable ABI {_native.torch_target}"
            + (f", sanitizers {_native.sanitize}" if _native.sanitize else ""),
            needed=True,
        ),
        Check("CPU kernels", True, f"{_native.cpu_isas}; {os.cpu_count()} processors"),
        Check("CUDA kernels", built_for_cuda, _native.cuda),
        Check("CUDA device", cuda, torch.cuda.get_device_name() if cuda else "none found by torch"),
        *(
            Check(
                f"backend on {c.device}" + (f", up to {c.classes} classes" if c.classes else ""),
                c.device == "cpu" or cuda,
                f"{c.backend} ({c.evidence})",
            )
            for c in CHOICES
        ),
        *(_package(name, purpose) for name, purpose in _PACKAGES.items()),
    ]


_PACKAGES = {
    "triton": "Triton kernels",
    "nvidia-dali-cuda130": "data pipelines",
    "torchvision": "torchvision models",
    "timm": "timm models",
    "onnxruntime": "ONNX export",
    "matplotlib": "reports",
}


def _package(name: str, purpose: str) -> Check:
    try:
        return Check(purpose, True, f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        return Check(purpose, False, f"{name} is not installed")
