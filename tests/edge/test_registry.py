"""Formats by name."""

from __future__ import annotations

import sys

import pytest

from edufast.edge import onnx, onnx_int8
from edufast.edge.registry import FORMATS, find_format, installed_formats
from edufast.utils.errors import UserError


def test_formats_are_found_by_name() -> None:
    assert find_format("onnx") is onnx and find_format("onnx-int8") is onnx_int8


@pytest.mark.parametrize("name", ["tflite", "", "ONNX", "onnx "])
def test_an_unknown_format_names_those_known(name: str) -> None:
    with pytest.raises(UserError) as caught:
        find_format(name)
    assert str(caught.value) == f"no export format is called {name!r}; known: {', '.join(FORMATS)}"


NEEDED = {
    "onnx": ("onnxscript", "export"),
    "executorch": ("executorch", "executorch"),
    "litert": ("litert_torch", "litert"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_package_is_told_when_the_format_is_asked_for(name: str, monkeypatch) -> None:
    package, extra = NEEDED[name.removesuffix("-int8")]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'edufast\[{extra}\]'"):
        find_format(name)
    assert name not in installed_formats()
