"""Loading, registering and calling the compiled operators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edufast.ops import _library
from edufast.utils._torch_private import schema_of


def test_without_its_library_the_package_says_how_to_install_it() -> None:
    code = """
import os, pathlib, torch, edufast
os.environ.pop("EDUFAST_LIBRARY", None)
pathlib.Path.is_file = lambda path: False
import edufast.ops
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: EduFast's compiled operators are missing: install")


def test_nothing_compiled_belongs_to_one_version_of_python() -> None:
    found = [*Path(_library.library()).parent.glob("**/*.so")]
    assert [path.name for path in found] == ["libedufast.so"]
    needs = subprocess.run(["readelf", "-Wd", "--dyn-syms", *found], capture_output=True, text=True)
    assert "libtorch_cpu" in needs.stdout and "aoti_torch" in needs.stdout
    assert "libpython" not in needs.stdout and " Py" not in needs.stdout


def test_what_cpp_refuses_is_a_value_error_of_one_line() -> None:
    z = torch.zeros(2, 3)
    arguments = (z, [z], [torch.tensor([0, 1, 7])], [0], [1.0])
    with pytest.raises(ValueError) as refusal:
        _library.checked(torch.ops.edufast.gradient_gram.default, *arguments)
    assert str(refusal.value) == "columns[0] names class 7; expected 0 to 2"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("kd_loss has no second derivative"),
        torch.OutOfMemoryError("tried to allocate; expected less"),
        KeyError("; expected a key"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        _library.checked(fail)
    assert raised.value is error


def test_operators_in_triton_have_the_schema_of_those_in_cpp() -> None:
    pytest.importorskip("triton")
    from edufast.kernels.augment import augment
    from edufast.kernels.dist_loss import dist_loss
    from edufast.kernels.kd_loss import kd_loss
    from edufast.kernels.min_norm import gradient_gram, min_norm_weights

    for defined in (augment, kd_loss, dist_loss, gradient_gram, min_norm_weights):
        name = defined.name().removeprefix("edufast::")
        original = getattr(torch.ops.edufast, name.removesuffix("_triton")).default
        assert name.endswith("_triton") and schema_of(defined) == schema_of(original)
