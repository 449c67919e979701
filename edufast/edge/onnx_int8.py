"""An .onnx file of 8-bit integers, by onnxruntime's static quantisation.

Weights are int8, per channel and symmetric; activations uint8, with ranges from calibration images
("U8S8", which x86 has instructions for); both as pairs of QuantizeLinear and DequantizeLinear
("QDQ"), which onnxruntime fuses when it loads the file. Preprocessing and logits stay float32.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata as distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edufast.edge import onnx as float32
from edufast.edge.original import Original
from edufast.edge.parity import BATCH, ExportError
from edufast.edge.runtime import load_onnxruntime

if TYPE_CHECKING:
    import onnx

SUFFIX = ".int8.onnx"
INTEGERS = True
require = float32.require
runner = float32.runner


def versions() -> dict[str, str]:
    """Versions of the packages that determine the file's content, for its metadata."""
    return {**float32.versions(), "onnxruntime": distributions.version("onnxruntime")}


def write(original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
    """Quantise the float32 file of ``original`` with its calibration images, to ``path``.

    Raises:
        UserError: a package of the ``export`` extra is missing.
        ExportError: the model cannot be exported or quantised, or an activation has no range.
    """
    require()
    float32.save(graph(original), path, metadata)


def graph(original: Original, outputs: Sequence[str] = (float32.OUTPUT,)) -> onnx.ModelProto:
    """:func:`edufast.edge.onnx.graph`, quantised; its metadata says how.

    Raises:
        ExportError: as :func:`write`.
    """
    images = original.calibration
    assert images is not None
    proto = _quantised(float32.graph(original, outputs), images)
    float32.strip(proto)
    quantisation = {
        "scheme": "static, QDQ",
        "weights": "int8, per channel",
        "activations": "uint8",
        "calibration_images": len(images),
    }
    entry = json.dumps(quantisation, sort_keys=True)
    proto.metadata_props.add(key="quantisation", value=entry)
    return proto


class _Reader:
    """Gives the calibrator one batch after the other."""

    def __init__(self, images: NDArray[Any]) -> None:
        self._batches = iter(images[i : i + BATCH] for i in range(0, len(images), BATCH))

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {float32.INPUT: batch}


def _quantised(proto: onnx.ModelProto, images: NDArray[Any]) -> onnx.ModelProto:
    load_onnxruntime()
    import onnx
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        create_calibrator,
        quant_pre_process,
        quantize_static,
    )

    with TemporaryDirectory() as name, _quiet_root_logger():
        names = ("traced", "exact", "all", "int8")
        traced, exact, augmented, quantised = (Path(name, f"{n}.onnx") for n in names)
        try:
            onnx.save(proto, traced)  # onnxruntime 1.23 refuses a graph in memory
            # Shapes only: PyTorch has optimised the graph.
            quant_pre_process(traced, exact, skip_optimization=True, skip_symbolic_shape=True)
            calibrator = create_calibrator(exact, augmented_model_path=str(augmented))
            calibrator.collect_data(_Reader(images))
            ranges = calibrator.compute_data()
            quantize_static(
                exact,
                quantised,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]},
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ExportError(
                f"onnxruntime cannot quantise this model: {float32.cause(error)}"
            ) from error
        result = onnx.load(quantised)
    for node in result.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in ranges:
            _check_range(node.input[0], *ranges[node.input[0]].range_value)
    return result


def _check_range(tensor: str, lowest: NDArray[Any], highest: NDArray[Any]) -> None:
    low, high = np.min(lowest), np.max(highest)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ExportError(
            f"activation {tensor!r} is between {low:g} and {high:g} for all calibration images; "
            "expected a range that integers can divide"
        )


@contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """onnxruntime's Python code logs by functions that configure the application's logging, and
    warns of what stays float32."""
    handlers, level = list(logging.root.handlers), logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers
