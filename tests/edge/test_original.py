"""The model of an export: frozen, folded, and answered for all samples beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edufast.edge.original import Original
from edufast.edge.parity import ExportError
from edufast.utils.errors import UserError
from tests.edge.cases import CLASSES, MEAN, SIZE, STD, reference

OPTIONS = {"input_size": SIZE, "mean": MEAN, "std": STD}


def test_it_answers_as_the_model_does_in_eval_mode(model, samples) -> None:
    original = Original.of(model, samples=samples, classes=CLASSES, **OPTIONS)
    np.testing.assert_allclose(original.expected, reference(model, samples), atol=1e-5)
    assert not original.noise and original.classes == tuple(CLASSES)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in original.model.modules())
    assert original.images.shape == (50, *samples.shape[1:])


def test_a_model_that_writes_into_its_images_leaves_the_samples(samples) -> None:
    class Normalises(nn.Sequential):
        def forward(self, images):
            return super().forward(images.sub_(0.5))

    images = samples.transpose(0, 3, 1, 2).astype(np.float32)
    original = Original.of(
        Normalises(nn.Flatten(), nn.Linear(576, 6)), input_size=SIZE, samples=images
    )
    assert (images == samples.transpose(0, 3, 1, 2)).all()
    np.testing.assert_array_equal(original.run(images), original.expected)
    assert (images == samples.transpose(0, 3, 1, 2)).all()


def test_a_model_whose_train_returns_nothing_is_taken(samples) -> None:
    class Forgetful(nn.Sequential):
        def train(self, mode: bool = True) -> None:
            super().train(mode)

    model = Forgetful(nn.Flatten(), nn.Dropout(), nn.Linear(576, 6))
    assert not Original.of(model, **OPTIONS).model.training


class Slices:
    """Images that are given in slices only, and which ones were asked for."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images
        self.largest = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> np.ndarray:
        self.largest = max(self.largest, len(self.images[part]))
        return self.images[part]


def test_samples_are_read_batch_by_batch(model, samples) -> None:
    slices = Slices(samples)
    original = Original.of(model, samples=slices, **OPTIONS)
    np.testing.assert_allclose(original.expected, reference(model, samples), atol=1e-5)
    assert slices.largest == 32


def test_metadata_say_what_a_device_needs(model) -> None:
    said = Original.of(model, classes=CLASSES, metadata={"licence": "mine"}, **OPTIONS).metadata
    assert said["classes"] == CLASSES and said["input_size"] == list(SIZE)
    assert said["preprocessing"]["mean"] == MEAN and said["licence"] == "mine"
    assert said["preprocessing"]["resize"]["crop"] == list(SIZE[1:])
    plain = Original.of(model, input_size=SIZE).metadata
    assert "normalised by the caller" in plain["preprocessing"]["input"]


@pytest.mark.parametrize("key", ["classes", "versions", "quantisation", "preprocessing"])
def test_metadata_of_export_itself_are_not_overwritten(model, key: str) -> None:
    with pytest.raises(ValueError, match=f"metadata: '{key}' is set by export itself"):
        Original.of(model, metadata={key: 1}, **OPTIONS)


def test_logits_that_are_not_finite_are_refused() -> None:
    broken = nn.Sequential(nn.Flatten(), nn.Linear(576, 6))
    nn.init.constant_(broken[1].bias, torch.inf)
    with pytest.raises(ExportError, match="the model's own logits are not finite"):
        Original.of(broken, **OPTIONS)


def test_calibration_images_of_another_layout_are_refused(model, calibration) -> None:
    with pytest.raises(ValueError, match=r"calibration must be uint8 \(N, 12, 16, 3\), got uint8"):
        Original.of(model, calibration=calibration.transpose(0, 3, 1, 2), **OPTIONS)


def test_a_model_that_cannot_be_copied_is_told_in_one_line() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(UserError, match=r"^model cannot be copied: RuntimeError: Only Tensors .*$"):
        Original.of(model, **OPTIONS)


def test_a_model_whose_weights_are_on_meta_is_told_in_one_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, *OPTIONS["input_size"]))
    with pytest.raises(UserError, match=r"^model cannot be copied: NotImplementedError: .*meta.*$"):
        Original.of(model.to("meta"), **OPTIONS)
