"""A grade may give its student smaller images."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.utils.errors import UserError
from tests.student_cases import CLASSES, finished, images, student, train


def reduced(size: int) -> torch.Tensor:
    return F.interpolate(images(), (size, size), mode="bilinear", antialias=True)


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper", "linear"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_images_are_reduced_before_the_first_fragment(head: str, depth: int) -> None:
    small = student(head=head)
    small.grow(fragments=depth, classes=4)
    small.eval().image_size = 8
    logits = small(images())
    assert torch.equal(small(reduced(8)), logits)
    small.image_size = None
    assert torch.equal(small(reduced(8)), logits)
    assert not torch.allclose(small(images()), logits)


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper", "linear"])
@pytest.mark.parametrize("size", [4, 7, 8, 12, 16])
def test_flops_at_a_size_are_counted_ones(head: str, size: int) -> None:
    small = student(head=head)
    small.grow(fragments=1, classes=4)
    small.grow(fragments=2, classes=6, keep_exits=True)
    small.eval().image_size = size
    with FlopCounterMode(display=False) as counter:
        small.forward_exits(images(1))
    assert small.flops() == counter.get_total_flops()


def test_feature_shapes_are_those_of_the_reduced_images() -> None:
    small = student(head="grid")
    small.grow(fragments=3, classes=CLASSES)
    small.eval().image_size = 8
    _, features = small.forward_answers(images())
    assert [tuple(f.shape[1:]) for f in features] == small.feature_shapes
    assert features[0].shape[2:] == (8, 8)


def test_heads_made_for_small_images_serve_large_ones_as_exits() -> None:
    grown = student(head="grid")
    grown.image_size = 6
    grown.grow(fragments=1, classes=4)
    grown.grow(fragments=2, classes=6, keep_exits=True)
    grown.image_size = 12
    grown.grow(fragments=3, classes=CLASSES, keep_exits=True)
    train(grown, SGD(grown.active_parameters(), lr=0.1))
    grown.eval().image_size = None
    *exits, logits = grown.forward_exits(images())
    torch.testing.assert_close(grown.graduate()(images()), logits)
    for depth, expected in zip((1, 2), exits, strict=True):
        torch.testing.assert_close(grown.graduate(depth)(images()), expected)


def test_the_graduate_takes_images_as_they_are() -> None:
    done = finished()
    expected = done(images())
    done.image_size = 8
    torch.testing.assert_close(done.graduate()(images()), expected)


def test_other_sizes_are_other_code_where_a_model_knows_its_size() -> None:
    class Sized(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc(F.avg_pool2d(x, 8 if x.shape[-1] == 8 else 4).flatten(1))

    sized = Student(Sized(), 1, input_size=(3, 16, 16))
    sized.grow(fragments=1, classes=3)
    sized.eval().image_size = 8
    torch.testing.assert_close(sized(images()), sized.model(reduced(8)))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_keep_the_size(clone: Callable[[Student], Student]) -> None:
    small = student()
    small.grow(fragments=2, classes=4)
    small.eval().image_size = 8
    twin = clone(small)
    assert twin.image_size == 8 and twin.flops() == small.flops()
    assert torch.equal(twin(images()), small(images()))


def test_sizes_that_cannot_be_are_refused_and_change_nothing() -> None:
    small = student()
    small.image_size = 8
    for size in (0, 17):
        with pytest.raises(ValueError, match=rf"image_size is {size}; .* at most.*\(3, 16, 16\)"):
            small.image_size = size
    rigid = Student(create_model("torchvision/vit_b_16", 3), 1, input_size=(3, 224, 224))
    with pytest.raises(UserError, match="fails"):
        rigid.image_size = 160
    assert small.image_size == 8 and rigid.image_size is None
    small.image_size = 16
    assert small.image_size is None


def test_a_size_compiles_without_a_graph_break() -> None:
    small = student(head="grid")
    small.grow(fragments=2, classes=4)
    small.eval().image_size = 8
    compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), small(images()))
