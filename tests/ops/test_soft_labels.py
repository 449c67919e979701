"""Soft labels: kd_loss with probabilities, beside PyTorch's own cross-entropy with them."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edufast.ops import kd_loss, kd_loss_and_grad
from edufast.ops._soft_labels import SoftLabels, are_soft, depends_on_classes
from edufast.ops.kd_loss import kd_loss_arguments
from tests.ops.cases import DTYPES

ROWS, CLASSES = 6, 11
_generator = torch.Generator().manual_seed(0)
Z, T, U = (3 * torch.randn(ROWS, CLASSES, generator=_generator) for _ in range(3))
MIXED = torch.rand(ROWS, 1, generator=_generator)
ONE, OTHER = (torch.randint(CLASSES, (ROWS,), generator=_generator) for _ in range(2))
MIXUP = MIXED * F.one_hot(ONE, CLASSES) + (1 - MIXED) * F.one_hot(OTHER, CLASSES)
DENSE = torch.randn(ROWS, CLASSES, generator=_generator).softmax(1)
BACKENDS = ["reference", "cpp"] + ["triton"] * bool(importlib.util.find_spec("triton"))
WEIGHTS = torch.rand(ROWS, 2, generator=_generator)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"alpha": 0.75, "label_smoothing": 0.125},
    {"divergence": "reverse_kl", "weighting": "entropy"},
    {"divergence": "js", "weighting": WEIGHTS, "temperature": (2.0, 3.0)},
    {"slices": [(0, 4), [9, 2, 5]], "weighting": [0.25, 0.5]},
    {"alpha": 0.0},
    {"alpha": 1.0},
]


def plain(z: Tensor, teachers: list[Tensor], labels: Tensor, **options: Any) -> Tensor:
    """What the loss is to be, from PyTorch's cross-entropy and a loss without labels."""
    alpha, smoothing = options.pop("alpha", 0.3), options.pop("label_smoothing", 0.0)
    reduction = options.get("reduction", "mean")
    ce = F.cross_entropy(z, labels, label_smoothing=smoothing, reduction=reduction)
    distillation = kd_loss(z, teachers, None, alpha=0.0, backend="reference", **options)
    return alpha * ce + (1 - alpha) * distillation


def gradients(
    loss: Any, z: Tensor, teachers: list[Tensor], labels: Tensor, **options: Any
) -> list[Tensor]:
    """Loss and gradients of the student and of the teachers, for an uneven upstream gradient."""
    leaves = [x.clone().requires_grad_() for x in (z, *teachers)]
    value = loss(leaves[0], leaves[1:], labels, **options)
    upstream = torch.linspace(1, 2, value.numel()).to(value).view(value.shape)
    wanted = leaves if options.get("teacher_grad") else leaves[:1]
    grads = torch.autograd.grad(value, wanted, upstream, materialize_grads=True)
    return [value.detach(), *grads]


def taught(options: dict[str, Any]) -> list[Tensor]:
    return [T, U] if "slices" not in options else [T[:, :4], U[:, :3]]


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("labels", [MIXUP, DENSE], ids=["mixup", "dense"])
def test_the_loss_is_pytorchs_cross_entropy_beside_the_distillation(
    labels, reduction, options, backend
):
    options = {**options, "reduction": reduction, "teacher_grad": True}
    ours = gradients(kd_loss, Z, taught(options), labels, **options, backend=backend)
    z, teachers = Z.double(), [t.double() for t in taught(options)]
    exact = gradients(plain, z, teachers, labels.double(), **options)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_as_close_as_eager_pytorch(dtype, backend):
    z, t = Z.to(dtype), T.to(dtype)
    ours = gradients(kd_loss, z, [t], DENSE, backend=backend)
    exact = gradients(plain, z.double(), [t.double()], DENSE.double())
    assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=2e-6, atol=2e-6)
    unit = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=unit, atol=unit / ROWS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_hot_probabilities_are_their_classes(backend):
    soft = gradients(kd_loss, Z, [T], F.one_hot(ONE, CLASSES).float(), backend=backend)
    hard = gradients(kd_loss, Z, [T], ONE, backend=backend)
    for a, b in zip(soft, hard, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_dimensions_are_rows(backend):
    def shaped(x: Tensor) -> Tensor:
        return x.view(2, 3, CLASSES)

    flat = gradients(kd_loss, Z, [T], MIXUP, reduction="none", backend=backend)
    loss, grad = gradients(
        kd_loss, shaped(Z), [shaped(T)], shaped(MIXUP), reduction="none", backend=backend
    )
    # Another upstream gradient, of another shape but of the same numbers.
    assert torch.equal(loss.flatten(), flat[0]) and torch.equal(grad.view_as(Z), flat[1])
    one = kd_loss(Z[0], [T[0]], MIXUP[0], backend=backend)
    torch.testing.assert_close(one, flat[0][0])
    nothing = kd_loss(Z[:0], [T[:0]], MIXUP[:0], backend=backend)
    assert nothing == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_labels_of_any_float_type(dtype):
    labels = DENSE.to(dtype)
    assert torch.equal(kd_loss(Z, [T], labels), kd_loss(Z, [T], labels.float()))


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "alpha": 0.5}], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_and_gradient_without_autograd(backend, options):
    expected = gradients(kd_loss, Z, [T, U], MIXUP, **options, backend=backend)
    ours = kd_loss_and_grad(Z, [T, U], MIXUP, **options, backend=backend)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_gradients_of_float16_are_float32_without_autograd():
    _, grad = kd_loss_and_grad(Z.half(), [T], MIXUP, alpha=torch.tensor(0.5))
    assert grad.dtype == torch.float32


def test_labels_are_constants_for_the_gradient():
    labels = DENSE.clone().requires_grad_()
    kd_loss(Z.clone().requires_grad_(), [T], labels).backward()
    assert labels.grad is None


# --- conventions --------------------------------------------------------------------------------


@pytest.fixture
def nobody_looks(monkeypatch):
    """Numbers and labels stay where they are, as on a GPU."""
    monkeypatch.setattr("edufast.ops._soft_labels.values_are_at_hand", lambda x: False)


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("as_number", [float, torch.tensor])
def test_what_counts_for_nothing_is_not_read(as_number, backend):
    z, nan = Z.clone().requires_grad_(), torch.full_like(Z, math.nan)
    unread = kd_loss(z, [T], nan, alpha=as_number(0.0), backend=backend)
    assert torch.equal(unread, kd_loss(Z, [T], None, alpha=0.0, backend=backend))
    unread = kd_loss(z, [nan], MIXUP, alpha=as_number(1.0), backend=backend)
    torch.testing.assert_close(unread, F.cross_entropy(Z, MIXUP))
    unread.backward()
    assert z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_without_probability_may_be_masked(backend):
    z = Z.clone()
    z[0, MIXUP[0] == 0] = -math.inf
    loss = kd_loss(z, [T], MIXUP, alpha=1.0, reduction="none", backend=backend)
    kept = MIXUP[0] > 0
    torch.testing.assert_close(loss[0], F.cross_entropy(z[0, kept], MIXUP[0, kept]))
    z[0, ONE[0]] = -math.inf
    loss = kd_loss(z, [T], MIXUP, alpha=1.0, reduction="none", backend=backend)
    assert loss[0] == math.inf and loss[1:].isfinite().all()


def test_the_reference_has_a_second_derivative():
    z = Z.double().requires_grad_()
    (grad,) = torch.autograd.grad(
        kd_loss(z, [T.double()], DENSE.double(), backend="reference"), z, create_graph=True
    )
    assert torch.autograd.grad(grad.square().sum(), z)[0].abs().sum() > 0


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_gradcheck(backend):
    z, t = (x[:3].double().requires_grad_() for x in (Z, T))
    options: dict[str, Any] = {"teacher_grad": True, "label_smoothing": 0.1, "backend": backend}
    assert torch.autograd.gradcheck(
        lambda z, t: kd_loss(z, [t], MIXUP[:3].double(), **options), (z, t)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_traced_and_numbers_may_change(backend):
    def step(z: Tensor, labels: Tensor, share: float) -> Tensor:
        return kd_loss(z, [T, U], labels, alpha=1 - share, label_smoothing=share / 4,
                       backend=backend)  # fmt: skip

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for share in (0.1, 0.2, 0.7, 0.35):
        both = []
        for f in (step, compiled):
            z = Z.clone().requires_grad_()
            loss = f(z, MIXUP, share)
            both.append((loss.detach(), torch.autograd.grad(loss, z)[0]))
        for a, b in zip(*both, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_numbers_may_be_tensors():
    numbers = {"alpha": torch.tensor(0.25), "label_smoothing": torch.tensor(0.125)}
    floats = {name: value.item() for name, value in numbers.items()}
    torch.testing.assert_close(kd_loss(Z, [T], MIXUP, **numbers), kd_loss(Z, [T], MIXUP, **floats))


@pytest.mark.usefixtures("nobody_looks")
@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"label_smoothing": 1.0}, {"alpha": -1.0}])
def test_numbers_out_of_range_on_a_device_make_the_loss_nan(wrong):
    tensors = {name: torch.tensor(value) for name, value in wrong.items()}
    assert kd_loss(Z, [T], MIXUP, reduction="none", **tensors).isnan().all()


# --- what is refused ----------------------------------------------------------------------------

NEGATIVE = DENSE.clone()
NEGATIVE[2, :2] += torch.tensor([1.0, -1.0])
REFUSED: list[tuple[str, Tensor, dict[str, Any]]] = [
    ("labels has shape .6, 3. and dtype torch.float32; expected integers", DENSE[:, :3], {}),
    ("labels is on meta; expected cpu", DENSE.to("meta"), {}),
    (r"labels\[0\] has the sum .*; expected probabilities", 2 * DENSE, {}),
    (r"labels\[2\] has the sum 1 and the smallest number -.*; expected", NEGATIVE, {}),
    (r"labels\[0\] has the sum nan and", torch.full_like(Z, math.nan), {}),
    ("labels has dtype torch.float32; expected integers where", DENSE, {"weighting": "routed"}),
    ("labels has dtype torch.float32; expected integers", DENSE, {"weighting": "confidence"}),
    ("labels has dtype torch.float32; expected integers where", DENSE, {"divergence": "dkd"}),
    ("alpha is 2.0; expected", DENSE, {"alpha": 2.0}),
    ("alpha is '1'; expected a number", DENSE, {"alpha": "1"}),
    ("label_smoothing is 1.0; expected", DENSE, {"label_smoothing": 1.0}),
    ("reduction is 'all'; expected one of", DENSE, {"reduction": "all"}),
    ("weighting is 'x'; expected one of", DENSE, {"weighting": "x"}),
    (r"teachers\[0\] has shape", DENSE, {"alpha": 1.0, "teachers": [T[:4]]}),
]


@pytest.mark.parametrize(
    ("message", "labels", "options"), REFUSED, ids=[message for message, *_ in REFUSED]
)
@pytest.mark.parametrize("loss", [kd_loss, kd_loss_and_grad])
def test_slips_are_named_in_one_line(loss, message, labels, options):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        loss(Z, labels=labels, **{"teachers": [T], **options})
    assert "\n" not in str(caught.value)


def test_a_row_of_several_dimensions_is_named():
    labels = NEGATIVE.view(2, 3, CLASSES)
    with pytest.raises(ValueError, match=r"labels\[0, 2\] has the sum"):
        kd_loss(Z.view(2, 3, CLASSES), [T.view(2, 3, CLASSES)], labels)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_transforms_and_tracing_are_refused_in_one_line():
    with pytest.raises(RuntimeError, match=r"torch.func's transforms .*; use backend='refer"):
        torch.func.grad(lambda z: kd_loss(z, [T], MIXUP))(Z)
    with pytest.raises(RuntimeError, match=r"cannot be traced by torch.jit; use torch.export"):
        torch.jit.trace(lambda z, t, q: kd_loss(z, [t], q), (Z, T, MIXUP))
    grad = torch.func.grad(lambda z: kd_loss(z, [T], MIXUP, backend="reference"))(Z)
    torch.testing.assert_close(grad, kd_loss_and_grad(Z, [T], MIXUP)[1])


# --- the parts ----------------------------------------------------------------------------------


def test_kinds_of_labels_and_what_needs_classes():
    assert are_soft(DENSE) and are_soft(DENSE.half())
    assert not are_soft(ONE) and not are_soft(None) and not are_soft(DENSE.tolist())
    assert depends_on_classes("routed", "js") and depends_on_classes("mean", "dkd")
    assert not depends_on_classes([0.5], "forward_kl")
    assert not depends_on_classes(WEIGHTS, "reverse_kl")


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_opcheck_of_the_distillation(alpha):
    options = {k: v for k, v in (kd_loss.__kwdefaults__ or {}).items() if k != "backend"}
    options |= {"alpha": alpha, "teacher_grad": True}
    z, t = Z.clone().requires_grad_(), T.clone().requires_grad_()
    arguments = kd_loss_arguments(z, [t], **SoftLabels.of(z, MIXUP, options).distillation)
    results = torch.library.opcheck(torch.ops.edufast.kd_loss.default, tuple(arguments))
    assert set(results.values()) == {"SUCCESS"}
