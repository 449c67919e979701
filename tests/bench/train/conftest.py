"""A contest small enough for a test."""

from __future__ import annotations

import pytest
import torch

from edufast.bench.train.setting import Pair, Setting, synthetic


@pytest.fixture(scope="session")
def pair() -> Pair:
    return Pair("resnet14", "resnet8", image_size=16, classes=6, samples=48)


@pytest.fixture(scope="session")
def setting(pair: Pair) -> Setting:
    """Shared by all tests: a loop copies what it trains, see test_peers."""
    return synthetic(pair, 12, torch.device("cpu"))
