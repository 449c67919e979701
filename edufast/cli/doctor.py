"""What an installation can do."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass

import torch

import edufast
from edufast.utils.threads import available_threads


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
    return [
        Check("EduFast", True, edufast.__version__, needed=True),
        Check("Python", True, platform.python_version(), needed=True),
        Check("torch", True, torch.__version__, needed=True),
        *_operators(cuda),
        Check("CUDA device", cuda, torch.cuda.get_device_name() if cuda else "none found by torch"),
        *(_package(name, purpose) for name, purpose in _PACKAGES.items()),
    ]


def _operators(cuda: bool) -> list[Check]:
    """How they were built, and which backend runs where."""
    try:
        from edufast import _build
        from edufast.ops.backends import CHOICES
    except (ImportError, OSError) as error:
        return [Check("operators", False, str(error), needed=True)]
    built = f"built with {_build.cxx}, torch {_build.torch}, stable ABI {_build.torch_target}"
    if _build.sanitize:
        built += f", sanitizers {_build.sanitize}"
    return [
        Check("operators", hasattr(torch.ops.edufast, "kd_loss"), built, needed=True),
        Check("CPU kernels", True, f"{_build.cpu_isas}; {available_threads()} processors"),
        Check("CUDA kernels", _build.cuda.startswith("nvcc"), _build.cuda),
        *(
            Check(
                f"backend on {c.device}",
                c.device == "cpu" or cuda,
                f"{c.backend} ({c.evidence})",
            )
            for c in CHOICES
        ),
    ]


_PACKAGES = {
    "triton": "Triton kernels",
    "nvidia-dali-cuda130": "image files",
    "torchvision": "torchvision models",
    "timm": "timm models",
    "onnxruntime": "ONNX export",
    "executorch": "ExecuTorch export",
    "litert-torch": "LiteRT export",
    "matplotlib": "reports",
}


def _package(name: str, purpose: str) -> Check:
    try:
        return Check(purpose, True, f"{name} {importlib.metadata.version(name)}")
    except importlib.metadata.PackageNotFoundError:
        return Check(purpose, False, f"{name} is not installed")
