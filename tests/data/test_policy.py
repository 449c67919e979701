"""Images changed by torchvision's policies, as functions of their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from edufast.data import Batch
from edufast.data.policy import altered

MEAN, STD = (0.3, 0.5, 0.4), (0.2, 0.3, 0.25)
PIXELS = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0))
SHIFT, SCALE = (255 * torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
POLICIES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}


def changed(policy: str, **changes: Any) -> Tensor:
    """(B, 3, H, W), from 0 to 255."""
    images = ((PIXELS - SHIFT) / SCALE).to(memory_format=torch.channels_last)
    labels = torch.zeros(len(PIXELS), dtype=torch.int64, device="cpu")
    where = {"seed": 3, "epoch": 1, "iteration": 5, "mean": MEAN, "std": STD, **changes}
    found = altered(policy, Batch(images, labels, labels), **where).images
    assert found.is_contiguous(memory_format=torch.channels_last)
    return (found * SCALE + SHIFT).round().to(torch.uint8)


@pytest.mark.parametrize("policy", POLICIES)
def test_images_are_those_of_torchvision_for_some_seed_of_their_own(policy, monkeypatch):
    seeds, seed = [], torch.default_generator.manual_seed

    class Generator:  # not torch.manual_seed, which would also seed the accelerators
        manual_seed = staticmethod(lambda value: seeds.append(value) or seed(value))

    with monkeypatch.context() as patch:
        patch.setattr(torch, "default_generator", Generator)
        before = torch.get_rng_state()
        found = changed(policy)
        assert torch.equal(torch.get_rng_state(), before)
    assert len(set(seeds)) == len(PIXELS)
    for image, pixels, own in zip(found, PIXELS.to(torch.uint8), seeds, strict=True):
        torch.manual_seed(own)
        assert torch.equal(image, POLICIES[policy]()(pixels))
    assert (found != PIXELS).any((1, 2, 3)).double().mean() > 0.5


@pytest.mark.parametrize("name", ["seed", "epoch", "iteration"])
def test_what_is_drawn_depends_on_nothing_else(name):
    expected = changed("trivialaugment")
    with torch.device("meta"):
        assert torch.equal(changed("trivialaugment"), expected)
    assert not torch.equal(changed("trivialaugment"), changed("trivialaugment", **{name: 7}))
