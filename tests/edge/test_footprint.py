"""Flash and RAM, counted by hand for networks that one can count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edufast.edge.footprint import footprint
from edufast.models.zoo import create_model


class Residual(nn.Module):
    """Its input is needed until the addition."""

    def __init__(self, *, skip: bool) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.linear = nn.Linear(4 * 8 * 8, 5)
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x).relu()).relu()
        return self.linear((x + y if self.skip else y).flatten(1))


def test_activations_are_those_that_are_still_read() -> None:
    maps = 4 * 8 * 8
    assert footprint(Residual(skip=False), (4, 8, 8)).activations == 2 * maps
    assert footprint(Residual(skip=True), (4, 8, 8)).activations == 3 * maps


def test_weights_biases_and_scales() -> None:
    needs = footprint(Residual(skip=True), (4, 8, 8))
    weights, biases = 2 * 4 * 4 * 9 + 256 * 5, 4 + 4 + 5
    assert (needs.weights, needs.others, needs.channels) == (weights, biases, biases)
    assert needs.flash(integers=False) == 4 * (weights + biases)
    assert needs.flash(integers=True) == weights + 8 * biases
    assert needs.ram(integers=True) == needs.activations == needs.ram(integers=False) // 4
    assert needs.flops == 2 * (2 * 4 * 4 * 9 * 64 + 256 * 5)


def test_norms_that_are_folded_take_no_flash() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 6 * 6, 2))
    normed = nn.Sequential(bare[0], nn.BatchNorm2d(8), *bare[1:])
    assert footprint(normed, (3, 8, 8)) == footprint(bare, (3, 8, 8))


def test_a_larger_image_takes_more_ram_and_no_more_flash() -> None:
    small, large = (footprint(create_model("resnet8", 10), (3, size, size)) for size in (16, 32))
    assert large.flash(integers=True) == small.flash(integers=True)
    assert large.activations == 4 * small.activations == 3 * 16 * 32 * 32


def test_the_file_is_not_smaller_than_its_weights(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    from edufast.edge.export import export

    model = create_model("resnet8", 10)
    report = export(model, tmp_path / "s.onnx", input_size=(3, 16, 16))
    flash = footprint(model, (3, 16, 16)).flash(integers=False)
    assert flash < report.bytes < 1.1 * flash
