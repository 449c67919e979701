"""The formats of exported files by name. A new one is a module like `onnx` and a line here."""

from __future__ import annotations

from edufast.edge import onnx, onnx_int8, pte, pte_int8, tflite, tflite_int8
from edufast.edge.format import Format
from edufast.utils.errors import UserError

FORMATS: dict[str, Format] = {
    "onnx": onnx,
    "onnx-int8": onnx_int8,
    "executorch": pte,
    "executorch-int8": pte_int8,
    "litert": tflite,
    "litert-int8": tflite_int8,
}


def find_format(name: str) -> Format:
    """The format called ``name``.

    Raises:
        UserError: there is none, or a package that it needs is missing.
    """
    if name not in FORMATS:
        raise UserError(f"no export format is called {name!r}; known: {', '.join(FORMATS)}")
    form = FORMATS[name]
    form.require()
    return form


def installed_formats() -> list[str]:
    """Names of those whose packages can be imported."""
    return [name for name in FORMATS if _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        FORMATS[name].require()
    except UserError:
        return False
    return True
