import pytest
import torch

from edufast.ops import backends
from edufast.ops.backends import Choice, select_backend

CPU = torch.empty(2, 100)


def test_argument_before_environment_before_table(monkeypatch):
    assert select_backend(None, CPU) == "cpp"
    monkeypatch.setenv("EDUFAST_BACKEND", "reference")
    assert select_backend(None, CPU) == "reference"
    assert select_backend("cpp", CPU) == "cpp"


def test_the_first_line_whose_backend_was_built_decides(monkeypatch):
    lines = (Choice("cuda", "reference", ""), Choice("cpu", "cuda", ""), Choice("cpu", "cpp", ""))
    monkeypatch.setattr(backends, "CHOICES", lines)
    monkeypatch.setattr(backends, "_BUILT", ["reference", "cpp"])
    assert select_backend(None, CPU) == "cpp"
    monkeypatch.setattr(backends, "_BUILT", ["reference"])
    assert select_backend(None, CPU) == "reference"


def test_devices_without_a_line_get_the_reference():
    assert select_backend(None, torch.empty(2, 3, device="meta")) == "reference"


def test_unknown_names_and_wrong_devices(monkeypatch):
    with pytest.raises(ValueError, match="backend is 'fast'; expected one of 'reference'"):
        select_backend("fast", CPU)
    with pytest.raises(ValueError, match="'cuda' runs on cuda; the tensors are on cpu"):
        select_backend("cuda", CPU)
    monkeypatch.setenv("EDUFAST_BACKEND", "quick")
    with pytest.raises(ValueError, match="backend is 'quick'"):
        select_backend(None, CPU)
