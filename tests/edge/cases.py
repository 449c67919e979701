"""Constants of the small model that the tests export, and its logits in plain PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
CLASSES = ["zero", "one", "two", "<three>", "vier", "fünf"]
SIZE = (3, 12, 16)  # height and width differ, so that swapping them shows


def pictures(count: int, seed: int) -> np.ndarray:
    """Coloured noise, (count, H, W, 3) uint8: every picture has a colour of its own."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 200, (count, 1, 1, 3))
    return (colours + generator.integers(0, 56, (count, *SIZE[1:], 3))).astype(np.uint8)


def normalised(samples: np.ndarray) -> torch.Tensor:
    """(N, H, W, 3) uint8 as (N, 3, H, W) float32, normalised per channel."""
    pixels = torch.from_numpy(samples).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def reference(model: nn.Module, samples: np.ndarray) -> np.ndarray:
    """The model's logits, preprocessing and model both run by torch."""
    training = model.training
    with torch.inference_mode():
        logits = model.eval()(normalised(samples)).numpy()
    model.train(training)
    return logits
