"""Numbers that change from call to call, such as an annealed temperature: floats and tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from edufast.ops import dist_loss, kd_loss, min_norm_weights
from edufast.ops._numbers import (
    fits,
    is_beta,
    is_share,
    is_smoothing,
    is_temperature,
    is_weight,
    number,
    packed,
)
from edufast.ops.kd_loss import kd_loss_arguments
from edufast.ops.reference.min_norm import Weights, reference_weights
from tests.ops.cases import DIVERGENCES, Case, Inputs, evaluate, inputs
from tests.ops.cuda_emulation import driver

BACKENDS = ("reference", "cpp", "triton")
PARAMS = {"js": (0.375,), "dkd": (1.5, 6.0)}


_generator = torch.Generator().manual_seed(0)
Z, T = (torch.randn(8, 10, generator=_generator) for _ in range(2))
LABELS = torch.randint(10, (8,), generator=_generator)


def with_gradient(f: Callable[..., Tensor], *arguments: Any) -> tuple[Tensor, Tensor]:
    z = Z.clone().requires_grad_()
    loss = f(z, *arguments)
    return loss.detach(), torch.autograd.grad(loss, z)[0]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
    name: str = request.param
    return name


# --- tensors are the same numbers -----------------------------------------------------------------


def numbers_of(divergence: str) -> dict[str, Any]:
    return {
        "temperature": (4.0, 2.0, 1.5),
        "alpha": 0.25,
        "label_smoothing": 0.125,
        "divergence": divergence,
        "divergence_params": PARAMS.get(divergence),
    }


def problem(divergence: str, **options: Any) -> Inputs:
    case = Case(slices="overlapping", weighting="entropy", teacher_grad=True, **options)
    x = inputs(case.but(**{k: v for k, v in numbers_of(divergence).items() if v is not None}))
    return x


def in_tensors(x: Inputs) -> Inputs:
    """The same problem with every number as a tensor, of another type and shape each."""
    a = dict(x.arguments)
    a["temperature"] = torch.tensor(a["temperature"], dtype=torch.float32)
    a["alpha"] = torch.tensor(a["alpha"], dtype=torch.bfloat16)
    a["label_smoothing"] = torch.tensor(a["label_smoothing"], dtype=torch.float16)
    if a["divergence_params"]:
        a["divergence_params"] = [torch.tensor(v).double() for v in a["divergence_params"]]
    return Inputs(x.student, x.teachers, x.labels, a)


def assert_equal(ours: Any, expected: Any, **tolerance: float) -> None:
    for a, b in zip((ours.loss, *ours.grads), (expected.loss, *expected.grads), strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tensors_give_the_bits_of_floats(divergence, backend):
    x = problem(divergence)
    assert_equal(evaluate(in_tensors(x), backend), evaluate(x, backend))


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if ``numbers`` were on a device: references and Triton's kernels leave them there."""
    for module in ("kd_loss", "dist_loss", "min_norm"):
        monkeypatch.setattr(f"edufast.ops.reference.{module}.values_are_at_hand", lambda x: False)
    yield


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("classes", [23, 2100])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_numbers_on_a_device_are_not_read_by_the_host(backend, divergence, classes):
    if backend == "triton":
        pytest.importorskip("triton")
    x = problem(divergence, rows=3, classes=classes)
    assert_equal(evaluate(in_tensors(x), backend), evaluate(x, backend), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [23, 1100])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_cuda_kernel_reads_numbers_on_the_device(divergence, classes, dtype):
    x = problem(divergence, rows=3, classes=classes, dtype=dtype)
    assert_equal(driver.evaluate(in_tensors(x))[0], driver.evaluate(x)[0])


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_term_that_a_tensor_weighs_with_nothing_is_not_read(alpha, backend):
    x = problem("forward_kl")
    if alpha:
        x.teachers = [torch.full_like(t, math.nan) for t in x.teachers]
    else:
        x.labels[1] = 22
        x.student[:, 22] = -math.inf  # an infinite cross-entropy, outside the slices
        x.arguments |= {"slices": [(0, t.shape[1]) for t in x.teachers]}
    x.arguments["alpha"] = alpha
    expected = evaluate(x, backend)
    assert expected.loss.isfinite()
    assert_equal(evaluate(in_tensors(x), backend), expected)


def test_dist_loss_and_min_norm_weights_take_tensors(backend):
    floats = {"temperature": 1.5, "beta": 0.5, "gamma": 2.0}
    tensors = {name: torch.tensor(value) for name, value in floats.items()}
    for a, b in zip(
        with_gradient(lambda z: dist_loss(z, T, **tensors, backend=backend)),
        with_gradient(lambda z: dist_loss(z, T, **floats, backend=backend)),
        strict=True,
    ):
        assert torch.equal(a, b)
    for temperature in (torch.tensor(1.5), torch.tensor([1.5, 3.0]), [torch.tensor(1.5), 3.0]):
        value = torch.as_tensor(temperature).tolist()
        ours, expected = (
            min_norm_weights(Z, [T, T / 2 + 1], temperature=t, backend=backend)
            for t in (temperature, value)
        )
        assert torch.equal(ours, expected)


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_the_other_operators_leave_numbers_on_a_device(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    tensors = {"temperature": torch.tensor(1.5), "beta": torch.tensor(0.5), "gamma": 2.0}
    for a, b in zip(
        with_gradient(lambda z: dist_loss(z, T, **tensors, backend=backend)),
        with_gradient(lambda z: dist_loss(z, T, temperature=1.5, beta=0.5, gamma=2.0)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    ours = min_norm_weights(Z, [T, T / 2 + 1], temperature=torch.tensor(1.5), backend=backend)
    torch.testing.assert_close(ours, min_norm_weights(Z, [T, T / 2 + 1], temperature=1.5))


@pytest.mark.parametrize("operator", ["kd_loss", "dist_loss", "gradient_gram", "min_norm_weights"])
def test_opcheck(operator):
    row = torch.tensor([4.0, 2.0, 1.5], dtype=torch.float64)
    arguments: tuple[Any, ...]
    if operator == "kd_loss":
        x = in_tensors(problem("dkd"))
        student = x.student.requires_grad_()
        arguments = kd_loss_arguments(student, x.teachers, x.labels, **x.arguments)
    elif operator == "dist_loss":
        arguments = (Z.clone().requires_grad_(), T, 0.0, 0.0, 0.0, row)
    elif operator == "gradient_gram":
        arguments = (Z, [T, -T], [], [0, 0], [], row[:2].clone())
    else:
        arguments = (torch.eye(3).double(), 0.0, torch.tensor([0.5]).double())
    overload = getattr(torch.ops.edufast, operator).default
    results = torch.library.opcheck(overload, tuple(arguments))
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck_with_tensors(divergence):
    x = in_tensors(problem(divergence, dtype=torch.float64, rows=3))
    leaves = [t.requires_grad_() for t in (x.student, *x.teachers)]

    def loss(student: Tensor, *teachers: Tensor) -> Tensor:
        return kd_loss(student, teachers, x.labels, **{**x.arguments, "weighting": "mean"})

    assert torch.autograd.gradcheck(loss, leaves)


# --- what is refused ------------------------------------------------------------------------------

OUT_OF_RANGE = [
    ({"temperature": 0.0}, r"temperatures\[0\] is 0"),
    ({"temperature": math.nan}, r"temperatures\[0\] is nan"),
    ({"alpha": 7.0}, "alpha is 7"),
    ({"alpha": -0.5}, "alpha is -0.5"),
    ({"label_smoothing": 1.0}, "label_smoothing is 1"),
    ({"divergence": "js", "divergence_params": [1.0]}, r"divergence_params\[0\] is 1"),
    ({"divergence": "js", "divergence_params": [0.0]}, r"divergence_params\[0\] is 0"),
    ({"divergence": "dkd", "divergence_params": [1.0, -1.0]}, r"divergence_params\[1\] is -1"),
    ({"divergence": "dkd", "divergence_params": [math.inf, 1.0]}, r"divergence_params\[0\] is inf"),
]


def as_tensors(arguments: dict[str, Any]) -> dict[str, Any]:
    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [torch.tensor(v) for v in value]
        return value if isinstance(value, str) else torch.tensor(value)

    return {name: convert(value) for name, value in arguments.items()}


@pytest.mark.parametrize(("wrong", "message"), OUT_OF_RANGE)
def test_a_tensor_of_the_cpu_out_of_range_is_refused_by_name(wrong, message, backend):
    with pytest.raises(ValueError, match=rf"^{message}.*; expected "):
        kd_loss(Z, [T], LABELS, backend=backend, **as_tensors(wrong))


@pytest.mark.parametrize("number_beside", ["temperature", "alpha"])
@pytest.mark.parametrize(("wrong", "message"), OUT_OF_RANGE)
def test_a_float_out_of_range_is_refused_beside_a_tensor(wrong, message, number_beside):
    beside = {} if number_beside in wrong else {number_beside: torch.tensor(0.5)}
    with pytest.raises(ValueError, match="; expected "):
        kd_loss(Z, [T], LABELS, **{"label_smoothing": torch.tensor(0.0)} | wrong | beside)


@pytest.mark.parametrize(("wrong", "message"), OUT_OF_RANGE)
def test_a_number_out_of_range_on_a_device_makes_every_row_nan(wrong, message, monkeypatch):
    labels = LABELS.clone()
    labels[2] = -100
    arguments = {"reduction": "none", **as_tensors(wrong)}
    emulated = driver.run(kd_loss_arguments(Z, [T], labels, **arguments))
    losses = [emulated.loss]
    assert emulated.grad[labels != -100].isnan().all() and emulated.grad[2].eq(0).all()
    monkeypatch.setattr("edufast.ops.reference.kd_loss.values_are_at_hand", lambda x: False)
    losses.append(kd_loss(Z, [T], labels, backend="reference", **arguments))
    if pytest.importorskip("triton"):
        losses.append(kd_loss(Z, [T], labels, backend="triton", **arguments))
    for loss in losses:
        assert loss[2] == 0 and loss[labels != -100].isnan().all()


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_number_out_of_range_on_a_device_makes_the_other_results_nan(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    for wrong in ({"temperature": 0.0}, {"beta": -1.0}, {"gamma": math.nan}):
        assert dist_loss(Z, T, backend=backend, **as_tensors(wrong)).isnan()
    assert (
        min_norm_weights(Z, [T, -T], temperature=torch.tensor(0.0), backend=backend).isnan().all()
    )
    cap = torch.tensor([1.5]).double()
    if backend == "reference":
        assert reference_weights(Weights(torch.eye(2).double(), 0.0, cap)).isnan().all()
    else:
        import edufast.kernels.min_norm  # noqa: F401

        gram = torch.eye(2).double()
        assert torch.ops.edufast.min_norm_weights_triton(gram, 0.0, cap).isnan().all()


def test_a_number_out_of_range_is_refused_by_the_other_operators(backend):
    for wrong, message in (
        ({"temperature": 0.0}, "temperature is 0"),
        ({"beta": -1.0}, "beta is -1"),
        ({"gamma": math.inf}, "gamma is inf"),
    ):
        with pytest.raises(ValueError, match=message):
            dist_loss(Z, T, backend=backend, **as_tensors(wrong))
        with pytest.raises(ValueError, match="; expected "):
            dist_loss(Z, T, **{"temperature": torch.tensor(1.0)} | wrong)
    with pytest.raises(ValueError, match=r"temperatures\[1\] is 0"):
        min_norm_weights(
            Z, [T, T], temperature=[torch.tensor(1.0), torch.tensor(0.0)], backend=backend
        )


BAD = [
    (torch.ones(1, 1), r"alpha has shape \(1, 1\) and dtype torch.float32; expected a number or"),
    (torch.ones(2), r"alpha has shape \(2,\)"),
    (torch.tensor(0.5j), "dtype torch.complex64"),
    (torch.tensor(0.5, requires_grad=True), "alpha requires a gradient; expected a constant"),
    (torch.tensor(0.5, device="meta"), "alpha is on meta; expected cpu or cpu, like student"),
]


@pytest.mark.parametrize(("value", "message"), BAD)
def test_a_tensor_that_is_no_number_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        number("alpha", value, Z)
    with pytest.raises(ValueError, match=message):
        kd_loss(Z, [T], LABELS, alpha=value)


def test_temperatures_for_other_teachers_are_refused():
    with pytest.raises(ValueError, match="or 2 of them"):
        kd_loss(Z, [T, T], LABELS, temperature=torch.ones(3))
    with pytest.raises(ValueError, match=r"temperature has shape \(2, 1\)"):
        kd_loss(Z, [T, T], LABELS, temperature=torch.ones(2, 1))


def test_floats_alone_are_not_packed():
    assert packed([1.0, 0.5], Z) is None
    row = packed([torch.tensor(1.0), 0.1], Z)
    assert row is not None and row.dtype == torch.float64 and row.tolist() == [1.0, 0.1]


@pytest.mark.parametrize(
    "x", [0.0, -0.0, 1e-19, 1e-18, 0.5, 1.0, 2.0, 1e18, 2e18, math.inf, math.nan]
)
@pytest.mark.parametrize("rule", [is_temperature, is_weight, is_share, is_smoothing, is_beta])
def test_floats_and_tensors_have_the_same_ranges(rule, x):
    assert fits(x, rule) == bool(rule(torch.tensor(x, dtype=torch.float64)))
    assert fits(torch.tensor(x), rule)
