"""A .pte file of 8-bit integers, by PyTorch's PT2E quantisation for XNNPACK.

Weights are int8, per channel and symmetric; activations int8, with ranges from calibration images.
Preprocessing stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import torch

from edufast.edge import pte as float32
from edufast.edge.one_image import example, exporting
from edufast.edge.original import Original

SUFFIX = ".int8.pte"
INTEGERS = True
require = float32.require
runner = float32.runner


def versions() -> dict[str, str]:
    """Versions of the packages that determine the file's content, for its metadata."""
    return {**float32.versions(), "torchao": distributions.version("torchao")}


def write(original: Original, path: Path, metadata: Mapping[str, Any]) -> None:
    """Quantise ``original`` with its calibration images, to ``path``.

    Raises:
        UserError: a package of the ``executorch`` extra is missing.
        ExportError: the model cannot be exported or quantised.
    """
    require()
    assert original.calibration is not None
    quantisation = {
        "scheme": "static, PT2E",
        "weights": "int8, per channel",
        "activations": "int8",
        "calibration_images": len(original.calibration),
    }
    with exporting(float32.RUNTIME):
        program = _quantised(original)
        float32.save(program, path, {**metadata, "quantisation": quantisation})


def _quantised(original: Original) -> torch.export.ExportedProgram:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    scheme = get_symmetric_quantization_config(is_per_channel=True)
    observed = prepare_pt2e(
        float32.traced(original).module(), XNNPACKQuantizer().set_global(scheme)
    )
    assert original.calibration is not None
    with torch.no_grad():
        for image in original.calibration:
            observed(torch.from_numpy(image[None].copy()))  # it may write into it
    return torch.export.export(convert_pt2e(observed), example(original))
