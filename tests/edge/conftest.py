"""A small model, images for it, and the file that both were exported and verified with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge.export import ExportReport, export
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, normalised, pictures, reference


@pytest.fixture(scope="session")
def samples() -> np.ndarray:
    return pictures(70, seed=0)


@pytest.fixture(scope="session")
def model() -> nn.Module:
    """A small net with every part whose mode or layout matters, left in train mode."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, len(CLASSES)),
    )
    for _ in range(3):  # running statistics unlike batch statistics
        net(2 * torch.randn(8, *SIZE) + 1)
    with torch.no_grad():  # so that its answers differ from picture to picture
        net[-1].bias -= net.eval()(normalised(pictures(64, seed=2))).mean(0)
    return net.train()


@pytest.fixture(scope="session")
def calibration() -> np.ndarray:
    """Images like the samples, and none of them."""
    return pictures(64, seed=1)


@pytest.fixture(scope="session")
def answers(model: nn.Module, samples: np.ndarray) -> np.ndarray:
    """What the model says of the samples, as labels: it is always right."""
    return reference(model, samples).argmax(1)


@pytest.fixture(scope="session")
def exported(
    model: nn.Module, samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ExportReport]:
    path = tmp_path_factory.mktemp("export") / "student.onnx"
    labels = np.arange(len(samples)) % len(CLASSES)
    report = export(
        model,
        path,
        input_size=SIZE,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        samples=samples,
        labels=labels,
        metadata={"recipe": "digits", "grades": [1, 2]},
    )
    return path, report
