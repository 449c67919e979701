"""What is said of this installation."""

import json
import re
import sys
from pathlib import Path

import torch

import edufast
from edufast import _build
from edufast.cli.doctor import diagnose
from edufast.ops.backends import CHOICES


def findings():
    return {check.what: check for check in diagnose()}


def test_nothing_that_is_needed_is_missing_here():
    assert all(check.ok for check in diagnose() if check.needed)


def test_versions_and_build_are_those_of_this_process():
    found = findings()
    assert found["torch"].found == torch.__version__
    assert found["EduFast"].found == edufast.__version__ == _build.version
    assert _build.cxx in found["operators"].found
    assert found["CUDA kernels"].ok == _build.cuda.startswith("nvcc")
    assert found["CUDA device"].ok == torch.cuda.is_available()


def test_every_choice_of_a_backend_stands_with_its_evidence():
    told = [check.found for check in diagnose() if check.what.startswith("backend on ")]
    assert told == [f"{choice.backend} ({choice.evidence})" for choice in CHOICES]


def test_the_evidence_for_the_cpu_is_what_was_measured():
    (path,) = re.findall(r"benchmarks/\S+json", CHOICES[0].evidence)
    measured = json.loads((Path(__file__).parents[2] / path).read_text())["results"]
    ahead = {
        rival: sum(r["results"]["cpp"][f"speedup_over_{rival}"] > 1 for r in measured)
        for rival in ("eager", "compile")
    }
    assert CHOICES[0].evidence.startswith(
        f"kd_loss is faster than eager in {ahead['eager']} and than torch.compile in "
        f"{ahead['compile']} of {len(measured)} shapes:"
    )


def test_missing_operators_are_a_finding_and_no_traceback(monkeypatch):
    monkeypatch.delattr(edufast, "_build")
    monkeypatch.setitem(sys.modules, "edufast._build", None)
    check = findings()["operators"]
    assert check.needed and not check.ok and "_build" in check.found


def test_missing_packages_are_told_by_name(monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    check = findings()["reports"]
    assert not check.ok and not check.needed and check.found == "matplotlib is not installed"
