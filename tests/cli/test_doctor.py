"""What is said of this installation."""

import sys

import torch

import edufast
from edufast import _native
from edufast.cli.doctor import diagnose
from edufast.ops.backends import CHOICES


def findings():
    return {check.what: check for check in diagnose()}


def test_nothing_that_is_needed_is_missing_here():
    assert all(check.ok for check in diagnose() if check.needed)


def test_versions_and_build_are_those_of_this_process():
    found = findings()
    assert found["torch"].found == torch.__version__
    assert found["EduFast"].found == edufast.__version__ == _native.version
    assert _native.cxx in found["operators"].found
    assert found["CUDA kernels"].ok == _native.cuda.startswith("nvcc")
    assert found["CUDA device"].ok == torch.cuda.is_available()


def test_every_choice_of_a_backend_stands_with_its_evidence():
    told = [check.found for check in diagnose() if check.what.startswith("backend on ")]
    assert told == [f"{choice.backend} ({choice.evidence})" for choice in CHOICES]


def test_missing_operators_are_a_finding_and_no_traceback(monkeypatch):
    monkeypatch.delattr(edufast, "_native")
    monkeypatch.setitem(sys.modules, "edufast._native", None)
    check = findings()["operators"]
    assert check.needed and not check.ok and "_native" in check.found


def test_missing_packages_are_told_by_name(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    check = findings()["reports"]
    assert not check.ok and not check.needed and check.found == "matplotlib is not installed"
