"""A .tflite file of 8-bit integers, by LiteRT's quantiser.

Weights are int8, per channel and symmetric; activations int8, with ranges from calibration images,
preprocessing included. Logits are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from edufast.edge import tflite as float32
from edufast.edge.one_image import exporting
from edufast.edge.original import Original
from edufast.utils.stderr import without_messages

SUFFIX = ".int8.tflite"
INTEGERS = True
require = float32.require
runner = float32.runner


def versions() -> dict[str, str]:
    """Versions of the packages that determine the file's content, for its metadata."""
    quantiser = "ai-edge-quantizer"
    return {**float32.versions(), quantiser: distributions.version(quantiser)}


def write(original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
    """Quantise the float32 program of ``original`` with its calibration images, to ``path``.

    Raises:
        UserError: a package of the ``litert`` extra is missing.
        ExportError: the model cannot be exported or quantised.
    """
    require()
    assert original.calibration is not None
    quantisation = {
        "scheme": "static",
        "weights": "int8, per channel",
        "activations": "int8",
        "calibration_images": len(original.calibration),
    }
    with exporting(float32.RUNTIME), without_messages():
        program = _quantised(original)
        float32.save(program, path, {**metadata, "quantisation": quantisation})


def _quantised(original: Original) -> bytes:
    exact = float32.converted(original)
    from ai_edge_quantizer import recipe
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.quantizer import AlgorithmName, Quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    quantiser = Quantizer(bytearray(exact), recipe.static_wi8_ai8())
    quantiser.update_quantization_recipe(".*", "OUTPUT", algorithm_key=AlgorithmName.NO_QUANTIZE)
    scheme = RecipeManager()
    scheme.load_quantization_recipe(quantiser.get_quantization_recipe())
    # Quantizer.calibrate takes moving averages of the ranges, which cut off what is rare.
    calibrator = Calibrator(bytearray(exact), qsv_update_func=min_max_update)
    assert original.calibration is not None
    images = [{"args_0": image[None]} for image in original.calibration]  # litert-torch's name
    calibrator.calibrate({"serving_default": images}, scheme)
    ranges = calibrator.get_model_qsvs()
    quantised = quantiser.quantize(ranges, enable_progress_report=False).quantized_model
    assert quantised is not None
    return bytes(quantised)
