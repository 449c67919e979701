"""Loading onnxruntime, which runs exported files."""

from __future__ import annotations

import os
from typing import Any


def load_onnxruntime() -> Any:
    """The module onnxruntime, without telemetry: it would write a device id to the home folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
