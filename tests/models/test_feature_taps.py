"""Features of models, found by their shapes and read by hooks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edufast.models.bn_folding import fold_batch_norm
from edufast.models.feature_taps import FeatureTaps, pooled
from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.utils.errors import UserError

SIZE = (3, 16, 16)


def images(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """One activation for all sizes, a functional pool, and a side branch of a single pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)
        self.gate = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = self.act(self.first(x))
        x = self.norm(self.second(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.fc(x.mean((2, 3)))


class LastPool(nn.Module):
    def forward(self, x):
        return x.mean((1, 2))


class ChannelsLast(nn.Module):
    """As Swin transformers do: maps (B, H, W, C), normalised, pooled, read."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12)
        self.pool, self.head = LastPool(), nn.Linear(12, 5)

    def forward(self, x):
        x = self.norm(self.patches(x).movedim(1, -1))
        return self.head(self.pool(x))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 12, 4, 4), nn.LayerNorm(12)
        self.block, self.head = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([x[:, :1], x], 1)
        return self.head(self.norm(x + self.block(x))[:, 0])


class Convolutional(nn.Module):
    """A 1x1 convolution on the map classifies, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return F.relu(self.head(self.body(x))).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "names", "shapes"),
    [
        (Shared(), ["second", "norm", "fc"], [(4, 8, 8), (6, 4, 4), (6,)]),
        (ChannelsLast(), ["norm", "head"], [(12, 4, 4), (12,)]),
        (Tokens(), ["patches", "norm", "head"], [(12, 4, 4), (17, 12), (12,)]),
        (Convolutional(), ["head", "head"], [(8, 4, 4), (8,)]),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 9), nn.Linear(9, 5)), ["2"], [(9,)]),
    ],
)
def test_taps_find_the_last_of_each_size_and_the_embedding(model, names, shapes):
    taps = FeatureTaps(model, SIZE)
    assert (taps.names, taps.shapes) == (names, shapes)
    with taps:
        logits = model(images())
    assert [tuple(f.shape) for f in taps.features] == [(4, *shape) for shape in shapes]
    last = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    if isinstance(last, nn.Linear):
        torch.testing.assert_close(last(taps.features[-1]), logits)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2"])
def test_taps_hear_the_same_after_folding(name):
    torch.manual_seed(0)
    model = create_model(name, 5)
    for module in model.modules():  # statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    plain, folded = model.eval(), fold_batch_norm(model)
    heard = []
    for network in (plain, folded):
        taps = FeatureTaps(network, SIZE)
        with taps, torch.no_grad():
            network(images())
        heard.append(taps.features)
    assert len(heard[0]) == 4
    for a, b in zip(*heard, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_taps_leave_the_model_as_it_was():
    model = create_model("resnet8", 5).train()
    model.fc.eval()
    before = copy.deepcopy(model.state_dict())
    taps = FeatureTaps(model, SIZE)
    with taps:
        model(images())
    assert model.training and not model.fc.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    heard = taps.features
    model(images(2))
    assert taps.features[0] is heard[0]  # nothing is heard outside of the block
    after = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    FeatureTaps(model, SIZE)
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(after[k], v) for k, v in model.state_dict().items() if k in after)


def test_a_model_without_features_is_named():
    with pytest.raises(UserError, match=r"Conv2d has no nn.Linear or 1x1"):
        FeatureTaps(nn.Conv2d(3, 4, 3), SIZE)
    with pytest.raises(UserError, match=r"Linear fails on images of \(3, 16, 16\)"):
        FeatureTaps(nn.Linear(5, 2), SIZE)


# --- the student's ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper", "linear"])
def test_answers_of_a_growing_student(head):
    torch.manual_seed(0)
    student = Student(create_model("resnet8", 6), 3, input_size=SIZE, head=head)
    shapes = [(16, 16, 16), (32, 8, 8), (64, 4, 4)]
    for grown in (1, 2, 3):
        student.grow(fragments=grown, classes=2 * grown, keep_exits=True)
        student.eval()
        logits, features = student.forward_answers(images())
        assert [tuple(f.shape[1:]) for f in features] == student.feature_shapes
        assert student.feature_shapes[:-1] == shapes[:grown]
        for a, b in zip(logits, student.forward_exits(images()), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(logits[-1], student(images()))
        closing = student.classifier if student.head is None else student.head.linear
        torch.testing.assert_close(closing(features[-1])[:, : 2 * grown], logits[-1])
    torch.testing.assert_close(pooled(features[-2]), features[-1])


@pytest.mark.parametrize("build", [Shared, ChannelsLast, Tokens, Convolutional])
def test_features_of_any_student_match_their_shapes(build):
    torch.manual_seed(0)
    student = Student(build(), 1, input_size=SIZE)
    student.grow(fragments=1, classes=5)
    for mode in (True, False):
        logits, features = student.train(mode).forward_answers(images())
        assert [tuple(f.shape[1:]) for f in features] == student.feature_shapes
        assert len(features) == 2 and logits[-1].shape == (4, 5)
    assert torch.equal(logits[-1], student(images()))


def test_features_carry_gradients_to_the_layers_below():
    student = Student(create_model("resnet8", 6), 2, input_size=SIZE)
    student.grow(fragments=2, classes=6)
    _, features = student.forward_answers(images())
    features[0].square().mean().backward()
    assert student.model.conv1.weight.grad.abs().sum() > 0
    assert student.classifier.weight.grad is None
