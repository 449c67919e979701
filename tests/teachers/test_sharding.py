"""Teachers spread over two ranks: each holds its share, and they answer as whole ones do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import edufast.teachers.sharding as sharding
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.utils.errors import UserError
from tests.pair import on_ranks
from tests.tiny import tiny_model

IMAGES = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Attentive(nn.Module):
    """Blocks in a list, and layers whose weights are read without a call of them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attend": nn.MultiheadAttention(16, 2, batch_first=True)})
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block["attend"](x, x, x)[0]
        logits: Tensor = self.head(self.norm(x).mean(1))
        return logits


def share(make: Callable[[int], nn.Module], part: int) -> tuple[float, int, Tensor, Tensor]:
    """Of a sharded teacher: the share of its parameters that this rank holds after it ran, the
    number of its parts, its logits, and those of the whole."""
    torch.manual_seed(0)
    teacher = Teacher(make(6), range(6), shard=True)
    whole = Faculty([replace(teacher, shard=False)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_PART", part)
        faculty = Faculty([teacher])
    assert faculty[0].fingerprint == teacher.fingerprint
    original = weakref.ref(teacher.model)
    del teacher, whole[0].model
    logits, expected = faculty.logits(0, IMAGES), whole.logits(0, IMAGES)
    gc.collect()
    assert original() is None
    network = faculty.model(0)
    held = sum(p.to_local().untyped_storage().nbytes() / 4 for p in network.parameters())
    total = sum(p.numel() for p in network.parameters())
    parts = sum(isinstance(module, sharding.FSDPModule) for module in network.modules())
    return held / total, parts, logits, expected


@pytest.mark.parametrize(
    ("make", "part", "parts"),
    [(tiny_model, 10**6, 1), (tiny_model, 500, 3), (Attentive, 500, 3)],
)
def test_a_rank_holds_its_share_and_answers_as_the_whole(make, part, parts):
    for held, found, logits, expected in on_ranks(share, make, part):
        assert 0.5 <= held < 0.52 and found == parts
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def test_one_process_has_the_whole():
    torch.manual_seed(0)
    teacher = Teacher(tiny_model(), range(6), shard=True)
    alone, whole = Faculty([teacher]), Faculty([replace(teacher, shard=False)])
    assert type(alone.model(0)) is nn.Sequential
    assert torch.equal(alone.logits(0, IMAGES), whole.logits(0, IMAGES))


class Scaled(nn.Module):
    """With a scalar parameter, which has no dimension to be spread over."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(())), nn.LazyLinear(2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.head(images.flatten(1))
        return logits


class Reading(nn.Module):
    """Reads the weights of a part that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(768, 2))

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.linear(images.flatten(1), self.part[0].weight)


def refused(kind: type[nn.Module], compile: bool) -> str:
    network = kind()
    network(IMAGES)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises((UserError, ValueError)) as error,
    ):
        patch.setattr(sharding, "_PART", 100)
        Faculty([Teacher(network, range(2), "t", shard=True)], compile=compile).logits(0, IMAGES)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "compile", "told"),
    [
        (Scaled, False, "teacher 0 (t) cannot be sharded: "),
        (Reading, False, "teacher 0 (t), sharded, fails on images (5, 3, 16, 16): "),
        (Reading, True, "compile is True, but a teacher is sharded; expected compile False"),
    ],
)
def test_what_cannot_be_sharded_is_told_in_one_line(kind, compile, told):
    for line in on_ranks(refused, kind, compile):
        assert line.startswith(told) and "\n" not in line
