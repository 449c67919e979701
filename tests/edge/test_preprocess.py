"""Preprocessing: from image bytes to what the model reads, in the graph and for the checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge.preprocess import Preprocessed, check_constants, for_channels_last, normalise
from tests.edge.cases import MEAN, STD, normalised
from tests.tiny import Viewing, tiny_model


def test_preprocessing_matches_torch(samples) -> None:
    expected = normalised(samples)
    inside = Preprocessed(nn.Identity(), MEAN, STD)(torch.from_numpy(samples))
    torch.testing.assert_close(inside, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(
        torch.from_numpy(normalise(samples, MEAN, STD)), expected, atol=2e-6, rtol=0
    )


def test_a_model_behind_its_preprocessing_reads_channels_first(samples) -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.mean((2, 3))

    logits = Preprocessed(Spy(), MEAN, STD)(torch.from_numpy(samples[:5]))
    assert seen[0].shape == (5, 3, 12, 16) and seen[0].dtype == torch.float32
    assert logits.shape == (5, 3)


def test_constants_come_back_as_floats_or_not_at_all() -> None:
    assert check_constants(None, None, 3) is None
    constants = check_constants(np.float32([0.5, 0.25]), torch.tensor([1, 2]), 2)
    assert constants == ([0.5, 0.25], [1.0, 2.0])
    assert all(type(value) is float for values in constants for value in values)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (MEAN, None, "mean and std must be given together: std is missing"),
        (None, STD, "mean and std must be given together: mean is missing"),
        (MEAN, STD[:2], "std is .*; expected 3 finite numbers above 0"),
        ([0.5, float("nan"), 0.5], STD, "mean is .*; expected 3 finite numbers up to 1"),
        (MEAN, [0.2, float("inf"), 0.2], "std is .*; expected 3 finite numbers above 0"),
        (MEAN, [0.2, -0.1, 0.2], "std is .*; expected 3 finite numbers above 0"),
        (
            [123.7, 116.3, 103.5],
            STD,
            "mean is .*; expected 3 finite numbers up to 1, one a channel, of pixel / 255",
        ),
    ],
)
def test_constants_that_cannot_normalise_are_refused(mean, std, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_constants(mean, std, 3)


def test_a_model_that_flattens_a_feature_map_by_a_view_gets_contiguous_images():
    viewing, other = Viewing().eval(), tiny_model().eval()
    found = for_channels_last(viewing, (3, 16, 16))
    images = torch.randn(2, 16, 16, 3).permute(0, 3, 1, 2)
    assert torch.equal(found(images), viewing(images.contiguous())) and not found.training
    assert for_channels_last(other, (3, 16, 16)) is other
