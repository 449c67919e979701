"""Files of weights for commands that read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edufast.data import DataSet
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model


def save(
    path: Path, data: DataSet, model: str = "resnet8", classes: Sequence[int] = range(6)
) -> Path:
    """Untrained weights of a classifier of some classes of ``data``."""
    info = ModelInfo.describe(model, data, classes, 0.5, 0, 0.0)
    save_model(path, create_model(model, len(classes)), info)
    return path
