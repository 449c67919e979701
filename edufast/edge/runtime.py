"""Loading exported files in their runtimes; .onnx files without torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edufast.edge.seal import is_damaged
from edufast.utils.errors import UserError, one_line
from edufast.utils.extras import needed_for

Program = Callable[[NDArray[Any]], list[NDArray[Any]]]  # all that a file computes: N rows each


def load_onnxruntime() -> Any:
    """The module onnxruntime, without telemetry: it would write a device id to the home folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def run_session(session: Any, images: NDArray[Any]) -> list[NDArray[Any]]:
    """All that a file computes for images (N, ...): with N rows each.

    A program with early exits takes one image at a time.
    """
    (taken,) = session.get_inputs()
    if taken.shape[0] != 1 or len(images) == 1:
        outputs: list[NDArray[Any]] = session.run(None, {taken.name: images})
        return outputs
    rows = [session.run(None, {taken.name: image[None]}) for image in images]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def load_session(file: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU for an .onnx file that EduFast wrote.

    Args:
        threads: 0: as many as onnxruntime takes.

    Raises:
        UserError: onnxruntime is missing or cannot load the file, or the file is damaged.
    """
    content = file.read_bytes()
    session = open_session(content, str(file), threads)
    if is_damaged(content):
        raise UserError(
            f"{file} is damaged, or was changed since edufast wrote it: its content does not match "
            "the hash at its end"
        )
    return session


def open_session(content: bytes, name: str, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU for any .onnx file, called ``name`` in messages.

    Raises:
        UserError: onnxruntime is missing or cannot load the file.
    """
    with needed_for("running .onnx files", "export"):
        onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is an error is told below, in one line
    providers = ["CPUExecutionProvider"]
    try:  # without its second try, by the same provider, which it announces in four lines
        return onnxruntime.InferenceSession(
            content, options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors share no public base class
        raise UserError(
            f"{name} cannot be loaded; expected an .onnx file: {one_line(error)}"
        ) from error


def load_program(file: Path, threads: int) -> Program:
    """All that an exported file computes for images, in its own runtime: (N, ...) to N rows each.

    Raises:
        UserError, ExportError: the runtime is missing, or cannot load the file.
    """
    if file.suffix in (".pte", ".tflite"):
        from edufast.edge import pte, tflite

        run = (pte if file.suffix == ".pte" else tflite).runner(file, threads)
        return lambda images: [run(images)]
    return partial(run_session, load_session(file, threads))
