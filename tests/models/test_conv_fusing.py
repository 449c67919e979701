"""Fused convolutions compute the same, and only what may is fused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edufast.models import conv_fusing
from edufast.models.bn_folding import folded_if_traceable
from edufast.models.conv_fusing import fused
from edufast.models.zoo import create_model
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from tests.models.batch_norms import differing_stats
from tests.ops.devices import HAS_GPU

on_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Has CPUs stand in for cuDNN; the calls, by name."""
    made: list[str] = []

    def relu(x, weight, bias, stride, padding, dilation, groups):
        made.append("relu")
        return torch.relu(torch.conv2d(x, weight, bias, stride, padding, dilation, groups))

    def add_relu(x, weight, z, alpha, bias, stride, padding, dilation, groups):
        made.append("add_relu")
        y = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        assert z.shape == y.shape and z.dtype == y.dtype and alpha == 1
        return torch.relu(y + z)

    monkeypatch.setattr(conv_fusing, "_DEVICES", ("cuda", "cpu"))
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.impl("cudnn_convolution_relu", relu, "CPU")
        library.impl("cudnn_convolution_add_relu", add_relu, "CPU")
    yield made
    library._destroy()


class Net(nn.Module):
    """Two convolutions of 4 channels, a ReLU, and a forward pass given by a function."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor], **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = (nn.Conv2d(4, 4, 3, **({"padding": 1} | options)) for _ in range(2))
        self.c = nn.Conv2d(4, 4, 1, bias=False)
        self.norm = differing_stats(nn.BatchNorm2d(4))
        self.relu, self.relu_ = nn.ReLU(), nn.ReLU(inplace=True)
        self.wide = nn.Conv2d(4, 1, 1)
        self.register_buffer("row", torch.randn(1, 4, 1, 1))
        self._run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._run(self, x)


def iadd(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


FUSED = {
    "module": (lambda n, x: n.relu(n.a(x)), ["relu"]),
    "module in place": (lambda n, x: n.relu_(n.a(x)), ["relu"]),
    "function": (lambda n, x: functional.relu(n.a(x)), ["relu"]),
    "function in place": (lambda n, x: functional.relu(n.a(x), inplace=True), ["relu"]),
    "torch": (lambda n, x: torch.relu(n.a(x)), ["relu"]),
    "method": (lambda n, x: n.a(x).relu(), ["relu"]),
    "method in place": (lambda n, x: n.a(x).relu_(), ["relu"]),
    "no bias": (lambda n, x: n.relu(n.c(x)), ["relu"]),
    "norm": (lambda n, x: n.relu(n.norm(n.a(x))), ["relu"]),
    "shared relu": (lambda n, x: n.relu_(n.b(n.relu_(n.a(x)))), ["relu", "relu"]),
    "shared convolution": (lambda n, x: n.relu(n.a(n.relu(n.a(x)))), ["relu", "relu"]),
    "basic block": (lambda n, x: n.relu_(n.b(n.relu_(n.norm(n.a(x)))) + x), ["relu", "add_relu"]),
    "sum in place": (lambda n, x: n.relu_(iadd(n.a(x), x)), ["add_relu"]),
    "sum as method": (lambda n, x: n.a(x).add_(x).relu_(), ["add_relu"]),
    "sum as function": (lambda n, x: torch.add(x, n.a(x)).relu(), ["add_relu"]),
    "two convolutions": (lambda n, x: n.relu(n.c(x) + n.a(x)), ["add_relu"]),
    "bottleneck": (
        lambda n, x: n.relu(n.b(n.relu(n.c(n.relu(n.a(x))))) + n.c(x)),
        ["relu", "relu", "add_relu"],
    ),
    "activated before": (lambda n, x: n.b(n.relu(n.a(n.relu(n.norm(x))))) + x, ["relu"]),
    "input used later": (lambda n, x: n.relu_(n.a(x)) + x, ["relu"]),
}
# The last of these are fused, but find on the tensors that cuDNN has no such call.
KEPT = {
    "no relu": lambda n, x: n.b(n.a(x)),
    "used twice": lambda n, x: (lambda y: n.relu(y) + y)(n.a(x)),
    "used twice in place": lambda n, x: (lambda y: n.relu_(y) + y)(n.a(x)),
    "sum used twice": lambda n, x: (lambda y: n.relu(y) + y)(n.a(x) + x),
    "twice the same": lambda n, x: (lambda y: n.relu(y + y))(n.a(x)),
    "into the shortcut": lambda n, x: (lambda y: n.relu(y.add_(n.a(x))) + y)(n.norm(x)),
    "scaled sum": lambda n, x: n.relu(torch.add(n.a(x), x, alpha=2)),
    "input changed": lambda n, x: (lambda x: (lambda y: n.relu(y + n.relu_(x)))(n.a(x)))(x * 1),
    "input changed by a method": lambda n, x: (lambda x: (lambda y: n.relu(y + x.mul_(2)))(n.a(x)))(
        x * 1
    ),
    "other activation": lambda n, x: functional.relu6(n.a(x)),
    "broadcast": lambda n, x: n.relu(n.a(x) + n.row),
    "broadcast convolution": lambda n, x: n.relu(n.wide(x) + x),
    "number": lambda n, x: n.relu(n.a(x) + x.size(1)),
    "other type": lambda n, x: n.relu(n.a(x) + x.float()),
    "other type in place": lambda n, x: n.relu(n.a(x).add_(x.float())),
}


def ready(model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    model = folded_if_traceable(model).requires_grad_(False).to(dtype)
    return model.to(memory_format=torch.channels_last)


def images(dtype: torch.dtype = torch.bfloat16, channels: int = 4) -> Tensor:
    x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def both(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the fused model gives when it is trusted, and what the model gives."""
    run = fused(model, "it")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        run(x.clone())
        return run(x.clone()), model(x.clone())


@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_fused_convolutions_compute_the_same(calls, case, dtype) -> None:
    forward, expected = FUSED[case]
    found, right = both(ready(Net(forward), dtype), images(dtype))
    assert calls == expected * 2 and torch.equal(found, right)


@pytest.mark.parametrize("case", KEPT)
def test_what_does_not_fit_is_kept(calls, case) -> None:
    found, right = both(ready(Net(KEPT[case])), images())
    assert not calls and torch.equal(found, right) and found.dtype == right.dtype


@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding_mode": "reflect"}, {"groups": 2}], ids=str
)
def test_convolutions_of_other_kinds_are_kept(calls, options) -> None:
    found, right = both(ready(Net(lambda n, x: n.relu(n.a(x)), **options)), images())
    assert not calls and torch.equal(found, right)


def test_convolutions_of_other_dimensions_are_kept(calls) -> None:
    model = nn.Sequential(nn.Conv3d(4, 4, 1), nn.ReLU())
    assert fused(model.eval().bfloat16(), "it").__class__ is nn.Sequential


@pytest.mark.parametrize("name", ["resnet20", "resnet8x4", "wrn_16_2", "torchvision/resnet50"])
def test_networks_compute_the_same(calls, name) -> None:
    pytest.importorskip(name.split("/")[0] if "/" in name else "torch")
    torch.manual_seed(0)
    model = ready(differing_stats(create_model(name, 10)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found, right = both(model, images(channels=3))
    assert torch.equal(found, right) and calls
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_changed_weights_are_used(calls) -> None:
    model = ready(Net(FUSED["module"][0]))
    run = fused(model, "it")
    run(images())
    model.a.weight.mul_(2)
    assert torch.equal(run(images()), model(images())) and len(calls) == 2


def test_unsuitable_models_are_left_as_they_are(calls, monkeypatch) -> None:
    class Untraceable(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.a(x)) if x.sum() > 0 else x

    forward = FUSED["module"][0]
    for model in (ready(Net(forward), torch.float32), ready(Untraceable(forward))):
        assert fused(model, "it") is model
    hooked = ready(Net(forward))
    hooked.relu.register_forward_hook(lambda *given: None)
    assert fused(hooked, "it") is hooked
    monkeypatch.setattr(conv_fusing, "_DEVICES", ("cuda",))
    elsewhere = ready(Net(forward))
    assert fused(elsewhere, "it") is elsewhere


def test_a_wish_for_deterministic_algorithms_is_heard(calls, monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    found, right = both(ready(Net(FUSED["module"][0])), images())
    assert not calls and torch.equal(found, right)


@pytest.mark.parametrize("at", [0, 3])
def test_where_cudnn_refuses_the_model_runs_and_one_warning_says_so(calls, monkeypatch, at) -> None:
    real, count = conv_fusing._is_for_cudnn, iter(range(100))

    def refusing(*given):
        if next(count) >= at:
            raise RuntimeError("Unable to find an engine to execute this computation")
        return real(*given)

    monkeypatch.setattr(conv_fusing, "_is_for_cudnn", refusing)
    model = ready(Net(FUSED["module"][0]))
    run = fused(model, "it")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert all(torch.equal(run(images()), model(images())) for _ in range(6))
    (warning,) = told
    assert str(warning.message) == (
        "it runs without fused convolutions, which takes longer: Unable to find an engine to "
        "execute this computation"
    )


@pytest.mark.parametrize("case", ["branch", "alias"])
def test_a_trace_that_computes_something_else_is_not_used(calls, case) -> None:
    # A proxy is no tensor, so that fx follows the other branch; and it takes += for a plain sum.
    def branching(n: Net, x: Tensor) -> Tensor:
        return n.relu(n.a(x)) if isinstance(x, Tensor) else n.relu(n.b(x))

    def into_the_shortcut(n: Net, x: Tensor) -> Tensor:
        x = y = n.norm(x)
        y += n.a(x)
        return n.relu(y) + x

    model = ready(Net(branching if case == "branch" else into_the_shortcut))
    run = fused(model, "it")
    with pytest.warns(UserWarning, match="it runs without fused .* the logits would differ"):
        run(images())
    assert torch.equal(run(images()), model(images()))


def test_the_first_logits_are_those_of_later_calls(calls, monkeypatch) -> None:
    """Up to rounding any would do; but a resumed training is to have the same bits."""
    run, x = fused(ready(Net(lambda n, x: n.relu(n.a(x)))), "teacher"), images()
    forward = run._forward
    monkeypatch.setattr(run, "_forward", lambda model, x: forward(model, x) * 1.01)
    first, second = run(x), run(x)
    assert torch.equal(first, second)


def test_images_that_do_not_fit_fail_as_before_and_change_nothing(calls) -> None:
    model = ready(Net(FUSED["module"][0]))
    run = fused(model, "it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="channels"):
            run(images(channels=3))
        run(images())
    assert calls and torch.equal(run(images()), model(images()))


def test_no_images_are_no_reason_to_give_up(calls) -> None:
    run = fused(ready(Net(FUSED["module"][0])), "it")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(run(images()[:n])) for n in (0, 2)] == [0, 2]


def test_a_model_that_writes_into_its_images_is_compared_with_the_same_ones(calls) -> None:
    def forward(n: Net, x: Tensor) -> Tensor:
        x += 1
        return n.relu(n.a(x))

    found, right = both(ready(Net(forward)), images())
    assert len(calls) == 2 and torch.equal(found, right)


def test_teachers_run_fused_but_for_irregular_numbers_of_images(calls) -> None:
    torch.manual_seed(0)
    teacher = Teacher(create_model("resnet8", 5), range(5))
    faculty = Faculty([teacher], dtype=torch.bfloat16)
    x = images(channels=3)
    expected = faculty.logits(0, x, eager=True)
    assert not calls
    assert torch.equal(faculty.logits(0, x), expected) and len(calls) == 7


@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ["resnet20", "resnet56", "resnet8x4", "wrn_16_2"])
def test_gpu_fused_teachers_are_as_near_the_truth_as_others(name, dtype) -> None:
    torch.manual_seed(0)
    model = differing_stats(create_model(name, 10)).eval()
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x.cuda().contiguous(memory_format=torch.channels_last)
    faculty = Faculty([Teacher(model, range(10))], "cuda", dtype=dtype)
    plain = faculty.logits(0, x, eager=True).double()
    with torch.no_grad():  # of the weights as they are rounded
        truth = _in_float64(faculty.model(0), x)
    limit = 2 * (plain - truth).abs().max() + 1e-6 * truth.abs().max()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):  # the last two are replays
            found = faculty.logits(0, x).double()
            assert (found - truth).abs().max() <= limit
            assert not torch.equal(found, plain)  # else nothing would have been fused
        again = x.flip(0)
        flipped = faculty.logits(0, again).double()
        assert (flipped - truth.flip(0)).abs().max() <= limit


@on_gpu
@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_gpu_fused_convolutions_compute_the_same(case, dtype) -> None:
    """Channels that need padding, too: 4."""
    model, x = ready(Net(FUSED[case][0]), dtype).cuda(), images(dtype).cuda()
    found, plain = both(model, x)
    truth = _in_float64(model, x)
    limit = 2 * (plain.double() - truth).abs().max() + 1e-6 * truth.abs().max()
    assert (found.double() - truth).abs().max() <= limit


@on_gpu
@pytest.mark.parametrize("case", KEPT)
def test_gpu_what_does_not_fit_is_kept(case) -> None:
    found, right = both(ready(Net(KEPT[case])).cuda(), images().cuda())
    torch.testing.assert_close(found, right)


def _in_float64(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).double()(x.double())
