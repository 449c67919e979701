"""Writing one .tflite file for LiteRT, once TensorFlow Lite, whose XNNPACK runs it on phones and
boards, Arm and x86. A program takes one image."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edufast.edge.one_image import example, exporting, undamaged
from edufast.edge.onnx import INPUT, OUTPUT, cause
from edufast.edge.original import Original
from edufast.edge.parity import ExportError, Run
from edufast.edge.seal import sealed
from edufast.utils import extras
from edufast.utils.stderr import without_messages

SUFFIX = ".tflite"
INTEGERS = False
RUNTIME = "LiteRT"
METADATA = "edufast"  # an entry of the program's metadata, which is JSON


def write(original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
    """Export ``original`` to ``path``.

    With constants the input is uint8 (1, H, W, C), else float32 (1, C, H, W). The same model always
    gives the same bytes.

    Raises:
        UserError: a package of the ``litert`` extra is missing.
        ExportError: the model cannot be exported.
    """
    require()
    with exporting(RUNTIME), without_messages():
        save(converted(original), path, metadata)


def converted(original: Original) -> bytes:
    """The model as a program, preprocessing included."""
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    import litert_torch

    content: bytes = litert_torch.convert(original.whole, example(original)).model_content()
    return content


def save(content: bytes, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a program with ``metadata``, its input and output named as in other formats."""
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT
    from ai_edge_litert.tools.flatbuffer_utils import (
        convert_object_to_bytearray,
        read_model_from_bytearray,
    )

    program = read_model_from_bytearray(bytearray(content))
    (signature,), (graph,) = program.signatureDefs, program.subgraphs
    for tensor in graph.tensors:
        tensor.name = None  # the module that it comes from, which takes bytes
    for (each,), name in ((signature.inputs, INPUT), (signature.outputs, OUTPUT)):
        each.name = graph.tensors[each.tensorIndex].name = name
    said = json.dumps(metadata, sort_keys=True).encode()
    program.metadata = [MetadataT(name=METADATA, buffer=len(program.buffers))]
    program.buffers.append(BufferT(data=np.frombuffer(said, np.uint8)))
    path.write_bytes(sealed(bytes(convert_object_to_bytearray(program))))


def runner(path: Path, threads: int | None = None) -> Run:
    """A function that maps images to logits, one after the other, by LiteRT on the CPU.

    Args:
        threads: of LiteRT; None: as many as torch takes.

    Raises:
        UserError: the runtime is missing.
        ExportError: the file is damaged; or LiteRT cannot load it or, when called, run it.
    """
    extras.require("running .tflite files", "litert", "ai_edge_litert")
    content = undamaged(path)
    with without_messages():  # that it has created a delegate
        from ai_edge_litert.interpreter import Interpreter

        try:
            program = Interpreter(
                model_content=content, num_threads=threads or torch.get_num_threads()
            )
            program.allocate_tensors()
        except Exception as error:
            raise ExportError(f"{RUNTIME} cannot load {path}: {cause(error)}") from error
    (taken,), (given,) = program.get_input_details(), program.get_output_details()

    def answer(image: NDArray[Any]) -> NDArray[np.float32]:
        program.set_tensor(taken["index"], image)
        program.invoke()
        logits: NDArray[np.float32] = program.get_tensor(given["index"])
        return logits

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        try:
            return np.concatenate([answer(image[None]) for image in images])
        except Exception as error:
            raise ExportError(f"{RUNTIME} cannot run the file: {cause(error)}") from error

    return run


def read_metadata(path: Path) -> dict[str, Any]:
    """What a file says of itself: classes, preprocessing, versions.

    Raises:
        ExportError: it is damaged.
    """
    extras.require("running .tflite files", "litert", "ai_edge_litert")
    from ai_edge_litert.tools.flatbuffer_utils import read_model_from_bytearray

    program = read_model_from_bytearray(bytearray(undamaged(path)))
    (said,) = (each for each in program.metadata if each.name.decode() == METADATA)
    entries: dict[str, Any] = json.loads(bytes(program.buffers[said.buffer].data))
    return entries


def require() -> None:
    """Raise `UserError` unless every package this format needs is installed."""
    extras.require("exporting .tflite files", "litert", "litert_torch", "ai_edge_litert")


def versions() -> dict[str, str]:
    """Versions of the packages that determine the file's content, for its metadata."""
    names = "torch", "litert-torch", "litert-converter"
    return {name: distributions.version(name) for name in names}
