"""What users hand to the losses: any leading dimensions, one teacher, no labels, lists, slips."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from edufast.ops import (
    MergePlan,
    augment,
    dist_loss,
    kd_loss,
    kd_loss_and_grad,
    merge_,
    min_norm_weights,
)

torch.manual_seed(0)
Z, T, U = (torch.randn(6, 5) for _ in range(3))
LABELS = torch.tensor([0, 4, -100, 2, 1, 3])
BACKENDS = ["reference", "cpp"]
MEAN = (0.5, 0.4, 0.3)


def with_gradient(z: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    loss = kd_loss(z, *rest, **options)
    loss.sum().backward()
    assert z.grad is not None
    return loss.detach(), z.grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_torch_takes_for_the_default_device_changes_nothing(backend):
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    index, slices = torch.arange(4), [[0, 2, 4], [1, 3]]
    parts = [T[:, :3], U[:, :2]]

    def results():
        given = {"weighting": [0.3, 0.7], "temperature": [1.0, 2.0], "backend": backend}
        return [
            kd_loss(Z, parts, LABELS, slices=slices, **given),
            kd_loss(Z, [T, U], Z.softmax(1), label_smoothing=0.1, backend=backend),
            dist_loss(Z, T, backend=backend),
            min_norm_weights(Z, parts, slices=slices, backend=backend),
            augment(images, index, index, pad=1, mean=MEAN, std=MEAN, backend=backend),
        ]

    expected = results()
    with torch.device("meta"):
        found = results()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- shapes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("leading", [(2, 3), (1, 6), (3, 2, 1), (6, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_leading_dimensions_are_rows(leading, reduction, backend):
    options = {"reduction": reduction, "temperature": 2.0, "backend": backend}
    expected, gradient = with_gradient(Z, [T, U], LABELS, **options)
    z, t, u = (x.reshape(*leading, 5) for x in (Z, T, U))
    loss, grad = with_gradient(z, [t, u], LABELS.reshape(leading), **options)
    assert loss.shape == (leading if reduction == "none" else ())
    assert grad.shape == z.shape
    assert torch.equal(loss.flatten(), expected.flatten())
    assert torch.equal(grad.reshape(6, 5), gradient)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_without_dimensions(backend):
    loss, grad = with_gradient(Z[0], [T[0]], LABELS[0], backend=backend, reduction="none")
    expected, gradient = with_gradient(Z[:1], [T[:1]], LABELS[:1], backend=backend)
    assert loss.shape == () and torch.equal(loss, expected) and torch.equal(grad, gradient[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_in_several_dimensions(backend):
    z = torch.zeros(0, 3, 5)
    loss = kd_loss(z, [z], torch.zeros(0, 3, dtype=torch.long), backend=backend, reduction="none")
    assert loss.shape == (0, 3)


def test_strides_of_leading_dimensions():
    z, t = Z.reshape(2, 3, 5).transpose(0, 1), T.reshape(2, 3, 5).transpose(0, 1)
    y = LABELS.reshape(2, 3).T
    expected = kd_loss(z.reshape(6, 5), [t.reshape(6, 5)], y.reshape(6))
    assert torch.equal(kd_loss(z, [t], y), expected)


def test_weights_for_each_row_of_several_dimensions():
    weights = torch.rand(6, 2)
    expected = kd_loss(Z, [T, U], LABELS, weighting=weights)
    z, t, u = (x.reshape(2, 3, 5) for x in (Z, T, U))
    loss = kd_loss(z, [t, u], LABELS.reshape(2, 3), weighting=weights.reshape(2, 3, 2))
    assert torch.equal(loss, expected)
    assert torch.equal(
        kd_loss(z, [t, u], LABELS.reshape(2, 3), weighting=[0.25, 0.75]),
        kd_loss(Z, [T, U], LABELS, weighting=torch.tensor([0.25, 0.75])),
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_and_gradient_of_leading_dimensions(backend):
    z, t = Z.reshape(2, 3, 5), T.reshape(2, 3, 5)
    loss, grad = kd_loss_and_grad(z, t, LABELS.reshape(2, 3), backend=backend)
    expected, gradient = kd_loss_and_grad(Z, [T], LABELS, backend=backend)
    assert torch.equal(loss, expected) and torch.equal(grad, gradient.reshape(2, 3, 5))


def test_leading_dimensions_in_a_compiled_graph():
    def step(z: Tensor) -> Tensor:
        return kd_loss(z, T.reshape(2, 3, 5), LABELS.reshape(2, 3).int(), reduction="none")

    z = Z.reshape(2, 3, 5)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(z), step(z))


def test_classes_in_a_list_are_traced():
    def step(z: Tensor) -> Tensor:
        return kd_loss(z, [T, T[:, :3]], LABELS, slices=[range(5), [4, 0, 2]])

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(Z), step(Z))


# --- one teacher, labels, weights ---------------------------------------------------------------


def test_a_tensor_is_one_teacher_or_a_stack_of_them():
    assert torch.equal(kd_loss(Z, T, LABELS), kd_loss(Z, [T], LABELS))
    assert torch.equal(kd_loss(Z, torch.stack([T, U]), LABELS), kd_loss(Z, [T, U], LABELS))
    assert torch.equal(min_norm_weights(Z, T), torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8])
def test_labels_of_any_integer_type(dtype):
    assert torch.equal(kd_loss(Z, T, LABELS.to(dtype)), kd_loss(Z, T, LABELS))


@pytest.mark.parametrize("weighting", ["mean", "entropy", [0.5, 0.5]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_labels_where_nothing_depends_on_them(weighting, backend):
    options = {"alpha": 0.0, "temperature": 1.0, "backend": backend, "weighting": weighting}
    loss = kd_loss(Z, [T, T], None, **options, ignore_index=0)
    p = F.log_softmax(Z, 1)
    torch.testing.assert_close(loss, F.kl_div(p, F.softmax(T, 1), reduction="batchmean"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": torch.tensor(0.0)},
        {"alpha": 0.0, "weighting": "routed"},
        {"alpha": 0.0, "weighting": "confidence"},
        {"alpha": 0.0, "divergence": "dkd"},
    ],
    ids=str,
)
def test_no_labels_are_refused_where_the_loss_depends_on_them(options):
    with pytest.raises(ValueError, match=r"^labels is None; expected labels unless"):
        kd_loss(Z, [T], None, **options)


def test_numbers_of_numpy():
    expected = kd_loss(Z, T, LABELS, temperature=2.0, alpha=0.5)
    for two in (np.float32(2), np.array(2.0), np.array([2.0])):
        assert torch.equal(kd_loss(Z, T, LABELS, temperature=two, alpha=np.float64(0.5)), expected)
    reference = kd_loss(Z, T, LABELS, temperature=2.0, alpha=np.float64(0.5), backend="reference")
    torch.testing.assert_close(reference, expected)


def test_merge_takes_whatever_lists_tensors():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        merge_(a.parameters(), b.parameters())
        assert torch.equal(a.weight, b.weight)
        b.weight.add_(1)
        MergePlan(a.parameters(), (x.parameters() for x in [b]))()
    assert torch.equal(a.weight, b.weight)


def test_numpys_bounds_of_a_slice_are_a_range():
    bounds = tuple(np.cumsum([1, 3]))
    expected = kd_loss(Z, [T[:, :3]], LABELS, slices=[(1, 4)])
    assert torch.equal(kd_loss(Z, [T[:, :3]], LABELS, slices=[bounds]), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_teachers_that_learn_themselves_get_no_gradient_unasked(backend):
    teacher = T.clone().requires_grad_()
    assert not kd_loss(Z, [teacher], LABELS, backend=backend).requires_grad
    assert kd_loss(Z, [teacher], LABELS, backend=backend, teacher_grad=True).requires_grad


# --- slips, each refused in one line that names the argument -------------------------------------

SLIPS = [
    ("teachers is of type NoneType; expected a list", lambda: kd_loss(Z, None, LABELS)),
    (r"teachers\[0\] is of type ndarray; expected", lambda: kd_loss(Z, [T.numpy()], LABELS)),
    ("student is of type ndarray; expected a tensor", lambda: kd_loss(Z.numpy(), [T], LABELS)),
    ("student has layout torch.sparse_coo; expec", lambda: kd_loss(Z.to_sparse(), [T], LABELS)),
    ("labels is of type list; expected a tensor", lambda: kd_loss(Z, [T], [0] * 6)),
    ("labels has shape .6,. and dtype torch.float32", lambda: kd_loss(Z, [T], LABELS.float())),
    (
        r"teachers\[0\] has shape .3, 2, 5.; expected .2, 3, n.",
        lambda: kd_loss(Z.view(2, 3, 5), [T.view(3, 2, 5)], LABELS.view(2, 3)),
    ),
    (
        r"labels has shape .3, 2, 1.; expected",
        lambda: kd_loss(Z.view(2, 3, 5), [T.view(2, 3, 5)], LABELS.view(3, 2)),
    ),
    ("temperature is None; expected a number", lambda: kd_loss(Z, T, LABELS, temperature=None)),
    ("temperature is '4'; expected a number", lambda: kd_loss(Z, T, LABELS, temperature="4")),
    ("alpha is 'x'; expected a number", lambda: kd_loss(Z, T, LABELS, alpha="x")),
    ("weighting is 'x'; expected a number", lambda: kd_loss(Z, T, LABELS, weighting=["x"])),
    (
        r"reduction is \['mean'\]; expected one of",
        lambda: kd_loss(Z, T, LABELS, reduction=["mean"]),
    ),
    (
        "divergence_params is 0.5; expected a tuple",
        lambda: kd_loss(Z, T, LABELS, divergence="js", divergence_params=0.5),
    ),
    ("ignore_index is None; expected", lambda: kd_loss(Z, T, LABELS, ignore_index=None)),
    ("teacher_grad is 'yes'; expected", lambda: kd_loss(Z, T, LABELS, teacher_grad="yes")),
    ("slices is 3; expected a list of slices", lambda: kd_loss(Z, T, LABELS, slices=3)),
    (r"slices\[0\] is None; expected", lambda: kd_loss(Z, T, LABELS, slices=[None])),
    (r"slices\[0\] is .0.0, 5.0.; expected", lambda: kd_loss(Z, T, LABELS, slices=[(0.0, 5.0)])),
    (
        r"slices\[0\] has shape .2,. and dtype torch.bool",
        lambda: kd_loss(Z, T[:, :2], LABELS, slices=[torch.tensor([True, False])]),
    ),
    (
        r"slices\[0\] is \[True, False\]; expec",
        lambda: kd_loss(Z, T, LABELS, slices=[[True, False]]),
    ),
    ("labels has shape .6,. and dtype torch.bool", lambda: kd_loss(Z, T, LABELS > 0)),
    (
        "labels has shape .6,. and dtype torch.uint64",
        lambda: kd_loss(Z, T, LABELS.to(torch.uint64)),
    ),
    ("temperature is beyond 1e308", lambda: kd_loss(Z, T, LABELS, temperature=[10**5000])),
    ("weighting is on meta; ex", lambda: kd_loss(Z, T, LABELS, weighting=T[0, :1].to("meta"))),
    ("weighting has dtype torch.complex64", lambda: kd_loss(Z, T, LABELS, weighting=T[0, :1] * 1j)),
    ("weighting is 'x'; expected one of 'mean'", lambda: kd_loss(Z, T, LABELS, weighting="x")),
    (
        r"slices\[0\] is on meta; expected cpu",
        lambda: kd_loss(Z, T, LABELS, slices=[torch.arange(5, device="meta")]),
    ),
    ("teachers is of type dict; expected a list", lambda: kd_loss(Z, {"a": T}, LABELS)),
    ("student has no dimensions", lambda: kd_loss(Z[0, 0], [T[0, 0]], LABELS[0])),
    ("backend is ''; expected one of", lambda: kd_loss(Z, T, LABELS, backend="")),
    ("temperature is True; expected a number", lambda: kd_loss(Z, T, LABELS, temperature=True)),
    ("ignore_index is 9223372036854775808", lambda: kd_loss(Z, T, LABELS, ignore_index=2**63)),
    ("lr is not an argument; expected one of slices", lambda: kd_loss_and_grad(Z, T, LABELS, lr=1)),
    ("teacher is of type list; expected a tensor", lambda: dist_loss(Z, [T])),
    ("beta is None; expected a number", lambda: dist_loss(Z, T, beta=None)),
    ("cap is 'x'; expected a number", lambda: min_norm_weights(Z, [T, U], cap="x")),
    ("teachers is of type NoneType", lambda: min_norm_weights(Z, None)),
    ("targets is of type NoneType; expected", lambda: merge_(None, [T])),
    ("sources is of type Tensor; expected a list", lambda: merge_([Z], T)),
    ("targets is of type dict; expected a list", lambda: merge_({"a": Z}, {"a": T})),
    (r"targets\[0\] is of type NoneType; expected a tensor", lambda: merge_([None], [T])),
    ("sources is of type str; expected a list of", lambda: MergePlan([Z], "T")),
    ("keep is 'x'; expected a number", lambda: merge_([Z], [T], keep="x")),
    ("weights is 0.5; expected 1 numbers", lambda: merge_([Z], [T], 0.5)),
    (r"weights\[0\] is 'a'; expected a number", lambda: merge_([Z], [T], ["a"])),
    ("fill is 'zeros'; expected a number", lambda: merge_([Z], [T], fill="zeros")),
    (r"moments is \[0, 1\]; expected pairs", lambda: merge_([Z], [T], moments=[0, 1])),
    ("moments is .* expected pairs", lambda: merge_([Z, Z], [T, T], moments=[(0, 2**63)])),
    ("keep is nan; expected a finite number", lambda: merge_([Z], [T], keep=math.nan)),
    (r"weights\[0\] is beyond 1e308", lambda: merge_([Z], [T], [10**400])),
    ("fill is 9007199254740993; expected", lambda: merge_([Z], [T], fill=2**53 + 1)),
    ("counts is 3.0; expected 1 numbers", lambda: merge_([Z], [T], counts=3.0)),
]


@pytest.mark.parametrize(("message", "slip"), SLIPS, ids=[message for message, _ in SLIPS])
def test_slips_are_named_in_one_line(message, slip):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        slip()
    assert "\n" not in str(caught.value)


def nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


ODD = {
    "has layout torch.sparse_coo": lambda: Z.to_sparse(),
    "has layout torch.sparse_csr": lambda: Z.to_sparse_csr(),
    "is quantized": lambda: torch.quantize_per_tensor(Z, 0.1, 0, torch.qint8),
    "is nested": nested,
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_dense_are_named(kind, backend):
    odd = ODD[kind]()
    for name, slip in (
        ("student", lambda: kd_loss(odd, [T], LABELS, backend=backend)),
        (r"teachers\[1\]", lambda: kd_loss(Z, [T, odd], LABELS, backend=backend)),
        ("weighting", lambda: kd_loss(Z, [T], LABELS, weighting=odd, backend=backend)),
        ("teacher", lambda: dist_loss(Z, odd, backend=backend)),
        (r"merge_: targets\[1\]", lambda: merge_([U.clone(), odd], [T, T], backend=backend)),
        (r"sources\[1\]\[0\]", lambda: merge_([U.clone()], [[T], [odd]], backend=backend)),
        (r"sources\[0\]\[1\]", lambda: MergePlan([Z, U], [T, odd], backend=backend)()),
    ):
        with pytest.raises(TypeError, match=f"{name} {kind}; expected a dense tensor"):
            slip()


def test_transforms_of_torch_func_need_the_reference():
    z = Z[:2]
    y = LABELS[:2]

    def loss(backend: str) -> Any:
        return lambda logits: kd_loss(logits, T[:2], y, backend=backend)

    for transform in (torch.func.grad, torch.func.vmap):
        x = z if transform is torch.func.grad else z[None]
        with pytest.raises(RuntimeError, match=r"torch.func's transforms .*; use backend='refer"):
            transform(loss("cpp"))(x)
    _, expected = kd_loss_and_grad(z, T[:2], y)
    torch.testing.assert_close(torch.func.grad(loss("reference"))(z), expected)


TRANSFORMED = {
    "nothing of the operator's": (
        lambda backend: torch.func.vmap(lambda x: x + dist_loss(Z, T, backend=backend))(
            torch.ones(2)
        )
    ),
    "teachers of min_norm_weights": (
        lambda backend: torch.func.vmap(
            lambda t: min_norm_weights(
                Z, [t, 2 * T], slices=[[1, 0, 2, 4, 3], (0, 5)], backend=backend
            )
        )(torch.stack([T, 3 * T]))
    ),
    "a linearized loss": (
        lambda backend: torch.func.linearize(lambda z: kd_loss(z, T, LABELS, backend=backend), Z)[
            1
        ](T)
    ),
}


@pytest.mark.parametrize("what", TRANSFORMED)
def test_a_transform_of(what):
    """Right with the reference; otherwise refused in one line that names it."""
    assert TRANSFORMED[what]("reference").isfinite().all()
    with pytest.raises(RuntimeError, match="use backend='reference'") as caught:
        TRANSFORMED[what]("cpp")
    assert "\n" not in str(caught.value)


def test_gradients_in_batches():
    z = Z.clone().requires_grad_()
    for loss in (kd_loss(z, T, LABELS), dist_loss(z, T)):
        (one,) = torch.autograd.grad(loss, z, retain_graph=True)
        (both,) = torch.autograd.grad(loss, z, torch.tensor([1.0, 3.0]), is_grads_batched=True)
        torch.testing.assert_close(both, torch.stack([one, 3 * one]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_merge_loses_no_tangent(backend):
    plan = MergePlan([torch.zeros_like(Z)], [Z], backend=backend)

    def merged(z: Tensor) -> Tensor:
        with torch.no_grad():  # which leaves forward mode as it is
            out = torch.zeros_like(z)
            merge_([out], [z], backend=backend)
            return out

    with pytest.raises(RuntimeError, match=r"merge_: .*\[0\] has a tangent, and merge_ has no"):
        torch.func.jvp(merged, (Z,), (T,))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="has a tangent"):
        merged(forward_ad.make_dual(Z, T))
    with forward_ad.dual_level():
        assert torch.equal(merged(Z), Z)
        plan()


def test_a_forward_derivative_needs_the_reference():
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(Z, T)
        with pytest.raises(RuntimeError, match="no forward-mode derivative; use backend='refer"):
            kd_loss(dual, T, LABELS)
        assert forward_ad.unpack_dual(kd_loss(dual, T, LABELS, backend="reference")).tangent


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_tracing_by_torch_jit_is_refused(backend):
    def merged(z: Tensor) -> Tensor:
        out = torch.zeros_like(z)
        merge_([out], [z], backend=backend)
        return out

    for function in (
        lambda z: kd_loss(z, [T], LABELS, backend=backend),
        lambda z: dist_loss(z, T, backend=backend),
        lambda z: min_norm_weights(z, [T, 2 * T], backend=backend),
        merged,
    ):
        with pytest.raises(RuntimeError, match=r"cannot be traced by torch.jit; use torch.export"):
            torch.jit.trace(function, (Z,))
