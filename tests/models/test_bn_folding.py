"""Folded models compute the same, and only what may is folded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from edufast.models.bn_folding import fold_batch_norm
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from tests.models.batch_norms import differing_stats, small_model, train_a_little


class Tricky(nn.Module):
    """What must not be folded: an output used twice, a norm called twice, a norm without
    statistics, a subclass, a linear layer; and what may: a grouped convolution without bias."""

    class Scaled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.after_twice = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.a, self.b, self.shared = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.c, self.blind = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.d, self.scaled = nn.Conv2d(4, 4, 1), self.Scaled(4)
        self.grouped, self.plain = nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)
        self.linear, self.flat = nn.Linear(8, 5), nn.BatchNorm1d(5, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(x)
        x = x + self.after_twice(x)
        x = self.shared(self.a(x)) + self.shared(self.b(x))
        x = self.scaled(self.d(self.blind(self.c(x))))
        return self.flat(self.linear(self.plain(self.grouped(x)).mean((2, 3))))


def norms(model: nn.Module) -> list[str]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    return [name for name, module in model.named_modules() if isinstance(module, kinds)]


@pytest.mark.parametrize(
    "name",
    ["resnet20", "resnet8x4", "torchvision/resnet18", "torchvision/mobilenet_v2", "timm/resnet18"],
)
def test_folded_models_compute_the_same(name: str) -> None:
    pytest.importorskip(name.split("/")[0] if "/" in name else "torch")
    torch.manual_seed(0)
    model = differing_stats(create_model(name, 10)).eval()
    before = {key: t.clone() for key, t in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    folded = fold_batch_norm(model)
    assert not norms(folded) and norms(model)
    with torch.no_grad():
        expected, got = model(images), folded(images)
    assert ((got - expected).abs().max() / expected.abs().max()).item() < 1e-5
    assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    assert not folded.training


def test_only_what_may_is_folded() -> None:
    torch.manual_seed(0)
    model = Tricky()
    train_a_little(model, steps=3)
    folded = fold_batch_norm(model)
    assert norms(folded) == ["after_twice", "shared", "blind", "scaled", "flat"]
    images = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), model.eval()(images), rtol=1e-5, atol=1e-5)
    assert folded.grouped.bias is not None


class Untraceable(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.isfinite().all() else x


class Odd(nn.Module):
    """A convolution, its norm, and another use of either."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use, self.conv, self.norm = use, nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.tokens, self.of_tokens = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.within, self.stem = Untraceable(self.conv), nn.Sequential(self.conv, self.norm)
        if use == "hook":
            self.conv.register_forward_hook(lambda module, images, output: output.relu())
        elif use == "hook before":
            self.norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
        elif use == "forward":
            self.conv.forward = lambda x: functional.conv2d(x, self.conv.weight * 2)
        elif use == "pruned":
            prune.l1_unstructured(self.conv, "weight", 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x) if self.use == "another name" else self.norm(self.conv(x))
        if self.use == "tokens":
            return self.of_tokens(self.tokens(y.mean(3)))
        if self.use == "weight":
            return y + functional.conv2d(x, self.conv.weight)
        if self.use == "statistics":
            return y + self.norm.running_mean[:, None, None]
        return y + self.within(x) if self.use == "within" else y


USES = [
    "hook",
    "hook before",
    "forward",
    "pruned",
    "tokens",
    "weight",
    "statistics",
    "within",
    "another name",
]


@pytest.mark.parametrize("use", USES)
def test_what_is_used_otherwise_stays_as_it_is(use: str) -> None:
    torch.manual_seed(0)
    model, images = differing_stats(Odd(use)).eval(), torch.randn(4, 3, 4, 4)
    with torch.no_grad():
        expected = model(images)
        got = fold_batch_norm(model)(images)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_stays_half() -> None:
    model = differing_stats(small_model()).to(torch.bfloat16)
    folded = fold_batch_norm(model)
    assert all(p.dtype == torch.bfloat16 for p in folded.parameters())


def test_what_cannot_be_traced_is_a_clear_error() -> None:
    class Dynamic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"cannot trace Dynamic"):
        fold_batch_norm(Dynamic())
