"""Writing one self-contained .onnx file through PyTorch's torch.export-based exporter."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata as distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from numpy.typing import NDArray
from torch import nn

from edufast.edge.original import Original
from edufast.edge.parity import ExportError, Run
from edufast.edge.runtime import load_onnxruntime, run_session
from edufast.edge.seal import sealed
from edufast.utils import extras

if TYPE_CHECKING:
    import onnx

SUFFIX = ".onnx"
INTEGERS = False
INPUT, OUTPUT = "image", "logits"
# Fields of an ONNX file that no runtime needs: value_info (shapes of intermediate values) is
# inferred when the file is loaded.
_DESCRIPTIVE = ("doc_string", "metadata_props", "value_info")
_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch.fx",
    "torch.utils._pytree",
    "onnxscript",
    "onnx_ir",
)


def write(original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
    """Export ``original`` to ``path``.

    With constants the input is uint8 (N, H, W, C), else float32 (N, C, H, W). The batch size is
    dynamic, the weights are stored inside the file, and the same model always gives the same bytes.

    Raises:
        UserError: a package of the ``export`` extra is missing.
        ExportError: the model cannot be traced, or the exporter wrote a different opset.
    """
    require()
    save(graph(original), path, metadata)


# What was traced, by names of the outputs: tracing takes most of an export, and formats begin with
# the same program.
_TRACED: WeakKeyDictionary[Original, dict[tuple[str, ...], onnx.ModelProto]] = WeakKeyDictionary()


def graph(original: Original, outputs: Sequence[str] = (OUTPUT,)) -> onnx.ModelProto:
    """The traced model, preprocessing included, without what describes this machine; the caller's.

    Args:
        outputs: names of what the model returns.

    Raises:
        ExportError: as :func:`write`.
    """
    traced, names = _TRACED.setdefault(original, {}), tuple(outputs)
    if names not in traced:
        traced[names] = _graph(original, names)
    proto = type(traced[names])()
    proto.CopyFrom(traced[names])
    return proto


def _graph(original: Original, outputs: Sequence[str]) -> onnx.ModelProto:
    channels, height, width = original.input_size
    opset = original.opset
    # torch.export treats a batch size of 0 or 1 as a constant: trace with 2.
    if original.constants is None:
        example = torch.zeros(2, channels, height, width, device="cpu")
    else:
        example = torch.zeros(2, height, width, channels, dtype=torch.uint8, device="cpu")
    proto = _trace(original.whole, example, opset, outputs)
    written = {entry.domain: entry.version for entry in proto.opset_import}[""]
    if written != opset:
        raise ExportError(f"opset {opset} was requested, but PyTorch could only write {written}")
    strip(proto)
    return proto


def save(proto: onnx.ModelProto, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``proto`` with ``metadata`` and a hash."""
    for key, value in metadata.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        proto.metadata_props.add(key=key, value=text)
    path.write_bytes(sealed(proto.SerializeToString(deterministic=True)))


def runner(path: Path, threads: int | None = None) -> Run:
    """A function that maps images to logits by running the file in onnxruntime on the CPU.

    Args:
        threads: of onnxruntime; None: as many as torch takes.

    Raises:
        ExportError: onnxruntime cannot load the file or, when called, cannot run it on a batch.
    """
    run = outputs_of(path, threads)
    return lambda images: run(images)[0]


def outputs_of(path: Path, threads: int | None = None) -> Callable[[NDArray[Any]], list[Any]]:
    """:func:`runner`, of all that the file computes."""
    require()
    onnxruntime = load_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no public base class
        raise ExportError(f"onnxruntime cannot load {path}: {cause(error)}") from error

    def run(images: NDArray[Any]) -> list[Any]:
        try:
            return run_session(session, images)
        except Exception as error:
            raise ExportError(
                f"onnxruntime cannot run the file at batch size {len(images)}: {cause(error)}"
            ) from error

    return run


def require() -> None:
    """Raise `UserError` unless every package this format needs is installed."""
    extras.require("exporting .onnx files", "export", "onnx", "onnxscript", "onnxruntime")


def versions() -> dict[str, str]:
    """Versions of the packages that determine the file's content, for its metadata."""
    return {name: distributions.version(name) for name in ("torch", "onnx", "onnxscript")}


def _trace(
    model: nn.Module, example: torch.Tensor, opset: int, outputs: Sequence[str]
) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1)
    try:
        with quiet():
            program = torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=({0: batch},),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # neither do the exporter's
        raise ExportError(f"PyTorch cannot export this model: {cause(error)}") from error
    assert program is not None  # None is for the older exporter only
    return program.model_proto


def cause(error: BaseException) -> str:
    """First line of the original error, which the exporter wraps in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def strip(message: Any) -> None:
    """Remove what describes the exporting machine: source lines, paths, trace details.

    ``message`` is a protobuf message of an ONNX file; the messages inside it are stripped too.
    """
    for field, value in message.ListFields():
        if field.name in _DESCRIPTIVE:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                strip(part)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress exporters' advice; what matters is checked after export."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
