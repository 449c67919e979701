"""Writing one .pte file for ExecuTorch, whose XNNPACK runs it on phones and boards, Arm and x86. A
program takes one image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edufast.edge.one_image import example, exporting, undamaged
from edufast.edge.onnx import cause
from edufast.edge.original import Original
from edufast.edge.parity import ExportError, Run
from edufast.edge.seal import sealed
from edufast.utils import extras
from edufast.utils.stderr import without_messages

SUFFIX = ".pte"
INTEGERS = False
RUNTIME = "ExecuTorch"
METADATA = "metadata"  # a method of the program, which returns JSON


def write(original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
    """Export ``original`` to ``path``.

    With constants the input is uint8 (1, H, W, C), else float32 (1, C, H, W). The same model always
    gives the same bytes.

    Raises:
        UserError: a package of the ``executorch`` extra is missing.
        ExportError: the model cannot be exported.
    """
    require()
    with exporting(RUNTIME):
        save(traced(original), path, metadata)


def traced(original: Original) -> torch.export.ExportedProgram:
    """The model as a graph, preprocessing included."""
    return torch.export.export(original.whole, example(original))


def save(program: torch.export.ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
    """Lower ``program`` to XNNPACK, what it has no operator for to portable code, and write it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    said = json.dumps(metadata, sort_keys=True)
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={METADATA: said}
    )
    path.write_bytes(sealed(lowered.to_executorch().buffer))


def runner(path: Path, threads: int | None = None) -> Run:
    """A function that maps images to logits, one after the other, by ExecuTorch on the CPU.

    Args:
        threads: of the process's pool; None: as many as torch takes.

    Raises:
        UserError: the runtime is missing.
        ExportError: the file is damaged; or ExecuTorch cannot load it or, when called, run it.
    """
    extras.require("running .pte files", "executorch", "executorch")
    content = undamaged(path)
    with without_messages():  # about files of Arm processors, which it misses on x86
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(threads or torch.get_num_threads())
        try:
            program = Runtime.get().load_program(content)
            program.load_method("forward")
        except Exception as error:
            raise ExportError(f"{RUNTIME} cannot load {path}: {cause(error)}") from error

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        forward = program.load_method("forward")  # whose memory goes with the program
        try:
            rows = torch.from_numpy(np.ascontiguousarray(images)).split(1)
            answers = [forward.execute([row])[0] for row in rows]
        except Exception as error:
            raise ExportError(f"{RUNTIME} cannot run the file: {cause(error)}") from error
        return torch.cat(answers).numpy()

    return run


def read_metadata(path: Path) -> dict[str, Any]:
    """What a file says of itself: classes, preprocessing, versions.

    Raises:
        ExportError: it is damaged.
    """
    extras.require("running .pte files", "executorch", "executorch")
    content = undamaged(path)
    with without_messages():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(content)
        said = program.load_method(METADATA).execute([])[0]
    entries: dict[str, Any] = json.loads(said)
    return entries


def require() -> None:
    """Raise `UserError` unless every package this format needs is installed."""
    extras.require("exporting .pte files", "executorch", "executorch", "torchao")


def versions() -> dict[str, str]:
    """Versions of the packages that determine the file's content, for its metadata."""
    return {name: distributions.version(name) for name in ("torch", "executorch")}
