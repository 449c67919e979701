"""Answers of exported files about a few pictures, for tests of the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edufast.experiments.answers import Answers
from edufast.experiments.events import ExportEvent
from tests.experiments.logs import EXPORT, RUN


def export(path: str, accuracy: float, size: int, **changes: object) -> ExportEvent:
    fields = {**EXPORT, "path": path, "accuracy": accuracy, "bytes": size, **changes}
    return ExportEvent(**{key: value for key, value in fields.items() if key != "event"})


def answers(folder: Path | None = None, confidence: float = 0.95) -> Answers:
    """Four pictures of each of six classes. Of class 1 one is recognised, and the others are taken
    for class 2; of class 4 three are. Pictures are written to ``folder``."""
    labels = np.arange(6).repeat(4)
    chosen = labels.copy()
    chosen[5:8] = 2
    chosen[16] = 0
    sure = np.linspace(0.5, 0.6, 24, dtype=np.float32)
    sure[6], sure[16] = confidence, 0.3
    pictures = ()
    if folder is not None:
        pictures = tuple(folder / f"<{i}>.png" for i in range(24))
        for i, path in enumerate(pictures):
            Image.new("RGB", (20, 30), (10 * i, 0, 0)).save(path)
    trained = np.array([40, 10, 40, 40, 40, 40])
    classes = tuple(RUN["classes"])
    name = "student.onnx"
    return Answers(classes, trained, labels, pictures, {name: chosen}, {name: sure})
