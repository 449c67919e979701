"""The reference, and cpp with it, against the papers' formulas, written out anew."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edufast.ops import ClassSlices, kd_loss
from tests.ops.cases import DIVERGENCES, SLICES, Case, evaluate, inputs

BACKENDS = ("cpp", "reference")


def kl(q: Tensor, p: Tensor) -> Tensor:
    return (q * (q / p).log()).sum()


def divergence(name: str, z: Tensor, t: Tensor, temperature: float, label: int | None) -> Tensor:
    """Between two rows of logits over one slice; ``label`` is its column in the slice."""
    p, q = (z / temperature).softmax(0), (t / temperature).softmax(0)
    if name == "forward_kl":
        return kl(q, p)
    if name == "reverse_kl":
        return kl(p, q)
    if name == "js":
        mixture = (p + q) / 2
        return (kl(p, mixture) + kl(q, mixture)) / 2
    rest = torch.arange(len(z)) != (-1 if label is None else label)
    other = kl(q[rest] / q[rest].sum(), p[rest] / p[rest].sum())
    if label is None:
        return 8 * other
    binary = [torch.stack([x[label], 1 - x[label]]) for x in (q, p)]
    return kl(*binary) + 8 * other


def weights(name: str, teachers: list[Tensor], columns: list[list[int]], y: int) -> list[Tensor]:
    """Of one row of each teacher."""
    knows = [y in c for c in columns]
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if name == "mean":
        return [one / len(teachers)] * len(teachers)
    if name == "routed":
        return [one / max(1, sum(knows)) if k else zero for k in knows]
    if name == "entropy":
        entropies = [-(t.softmax(0) * t.log_softmax(0)).sum() for t in teachers]
        return [(1 - h / sum(entropies)) / (len(teachers) - 1) for h in entropies]
    costs = [
        -t.log_softmax(0)[c.index(y)] for t, c, k in zip(teachers, columns, knows, strict=True) if k
    ]
    if len(costs) < 2:
        return [one if k else zero for k in knows]
    shares = iter((1 - torch.stack(costs).softmax(0)) / (len(costs) - 1))
    return [next(shares) if k else zero for k in knows]


def loss_by_hand(x, name: str, weighting: str, alpha: float, smoothing: float) -> Tensor:
    classes = x.student.shape[1]
    slices = x.arguments["slices"] or [(0, classes)] * len(x.teachers)
    columns = [list(range(*s)) if isinstance(s, tuple) else s for s in slices]
    total = torch.zeros((), dtype=torch.float64)
    for row, y in enumerate(x.labels.tolist()):
        if y == -100:
            continue
        z, teachers = x.student[row], [t[row] for t in x.teachers]
        total = total + alpha * F.cross_entropy(z, torch.tensor(y), label_smoothing=smoothing)
        given = weights(weighting, teachers, columns, y)
        for t, c, w in zip(teachers, columns, given, strict=True):
            label = c.index(y) if y in c else None
            total = total + (1 - alpha) * w * 4.0**2 * divergence(name, z[c], t, 4.0, label)
    return total / (x.labels != -100).sum()


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("weighting", ["mean", "routed", "entropy", "confidence"])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_formulas(name, weighting, slices):
    case = Case(dtype=torch.float64, divergence=name, weighting=weighting, slices=slices)
    x = inputs(case.but(label_smoothing=0.125))
    student = x.student.clone().requires_grad_()
    expected = loss_by_hand(
        type(x)(student, x.teachers, x.labels, x.arguments), name, weighting, 0.25, 0.125
    )
    (grad,) = torch.autograd.grad(expected, student)
    for backend in BACKENDS:
        ours = evaluate(x, backend)
        torch.testing.assert_close(ours.loss, expected.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ours.grads[0], grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_against_torch(backend):
    """Cross-entropy alone and one KL alone are PyTorch's own."""
    x = inputs(Case(teachers=1))
    loss = kd_loss(x.student, x.teachers, x.labels, alpha=1.0, backend=backend)
    torch.testing.assert_close(loss, F.cross_entropy(x.student, x.labels))
    x = inputs(Case(teachers=1, ignored=0))
    loss = kd_loss(x.student, x.teachers, x.labels, alpha=0.0, temperature=2.0, backend=backend)
    log_p, log_q = (F.log_softmax(t / 2, 1) for t in (x.student, x.teachers[0]))
    expected = 4 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    torch.testing.assert_close(loss, expected)


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("label", [-1, 23, 2**40])
def test_a_label_out_of_range_is_refused_whatever_alpha_is(alpha, label):
    x = inputs(Case(alpha=alpha))
    x.labels[3] = label
    for backend in BACKENDS:
        with pytest.raises(ValueError, match=rf"^labels\[3\] is {label}; expected 0 to 22 or ig"):
            evaluate(x, backend)


def test_a_label_out_of_range_gives_nan_where_it_cannot_be_looked_at():
    x = inputs(Case(alpha=0.0, reduction="none"))
    x.labels[3] = 23

    def loss(labels):
        return kd_loss(x.student, x.teachers, labels, backend="reference", **x.arguments)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)(x.labels)
    mapped = torch.func.vmap(loss)(x.labels[None])[0]
    for losses in (compiled, mapped):
        assert torch.isnan(losses).tolist() == [row == 3 for row in range(6)]


def test_a_class_out_of_range_in_a_list_is_refused():
    x = inputs(Case(slices="lists"))
    slices = ClassSlices.of(x.arguments["slices"], 23)
    slices.columns[1][0] = 23
    x.arguments["slices"] = slices
    for backend in BACKENDS:
        with pytest.raises(ValueError, match=r"^columns\[1\] names class 23; expected 0 to 22"):
            evaluate(x, backend)
