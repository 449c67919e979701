"""Feature algorithms against their papers' formulas in float64, and inside a school."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from edufast.distill import CRD, KD, AttentionTransfer, FitNet, GradeContext, create_algorithm
from edufast.distill.crd import Contrast
from edufast.distill.feature_algorithm import as_map, matched, same_size
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.utils.errors import UserError

BATCH, SAMPLES = 6, 40
STUDENT = [(4, 8, 8), (6, 4, 4), (8, 2, 2), (8,)]
TEACHERS = [[(5, 8, 8), (7, 4, 4), (9, 2, 2), (9,)], [(3, 16, 16), (10, 4, 4), (10,)]]
LABELS = torch.arange(SAMPLES) % 5


def context(routed: bool = False, student=STUDENT, teachers=(0, 1)) -> GradeContext:
    return GradeContext(
        student_shapes=student,
        teachers=teachers,
        teacher_shapes=[TEACHERS[k] for k in teachers],
        labels=LABELS,
        owners=torch.where(LABELS < 3, 0, 1) if routed else None,
        device=torch.device("cpu"),
    )


def batch(rows: list[slice]) -> tuple[list, TeacherOutputs, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(count, shapes):
        return [torch.randn(count, *s, generator=generator).requires_grad_() for s in shapes]

    index = torch.tensor([0, 6, 12, 3, 9, 14])  # classes 0 1 2, then 3 4 4: by owner
    answers = [
        draw(part.stop - part.start, shapes) if part.stop > part.start else []
        for part, shapes in zip(rows, TEACHERS, strict=True)
    ]
    logits = [torch.randn(BATCH, 5, generator=generator)]
    said = TeacherOutputs(logits, None, "mean", rows, answers, index)
    return draw(BATCH, STUDENT), said, LABELS[index]


ALL = [slice(0, BATCH)] * 2
OWN = [slice(0, 4), slice(4, BATCH)]
NONE = [slice(0, BATCH), slice(BATCH, BATCH)]


def prepared(algorithm, **keywords):
    torch.manual_seed(0)
    algorithm.begin_grade(context(**keywords))
    return algorithm


# --- against the formulas ------------------------------------------------------------------


def over_teachers(said, of_teacher):
    """Mean over the teachers, weighted by rows."""
    terms, rows = [], []
    for position, part in enumerate(said.rows):
        if part.stop > part.start:
            terms.append(of_teacher(position, part))
            rows.append(part.stop - part.start)
    return sum(n * t for n, t in zip(rows, terms, strict=True)) / sum(rows)


def pooled_by_two(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).mean((3, 5))


@pytest.mark.parametrize("rows", [ALL, OWN, NONE])
def test_fitnet_is_the_regression_of_the_middle_map(rows):
    features, said, labels = batch(rows)
    algorithm = prepared(FitNet(weight=7.0))

    def of_teacher(position, part):
        regressor = algorithm.adapters[str(position)]
        weight, bias = regressor.weight.double()[:, :, 0, 0], regressor.bias.double()
        hint = said.features[position][1].double()
        # The first teacher's maps pair 8-8, 4-4, 2-2; the second's 16-8, 4-4, 4-2.
        f = features[1][part].double()
        answer = torch.einsum("oc,bchw->bohw", weight, f) + bias[:, None, None]
        return 7.0 * ((answer - hint) ** 2).mean()

    check(algorithm, features, said, labels, over_teachers(said, of_teacher))


@pytest.mark.parametrize("rows", [ALL, OWN, NONE])
def test_attention_transfer_is_the_distance_of_normalised_maps(rows):
    features, said, labels = batch(rows)
    algorithm = prepared(AttentionTransfer(weight=3.0))

    def attention(x):
        flat = (x.double() ** 2).mean(1).flatten(1)
        return flat / flat.norm(dim=1, keepdim=True)

    def of_teacher(position, part):
        s = [f[part] for f in features]
        t = said.features[position]
        if position == 0:
            pairs = [(s[0], t[0]), (s[1], t[1]), (s[2], t[2])]
        else:
            pairs = [(s[0], pooled_by_two(t[0])), (s[1], t[1]), (s[2], pooled_by_two(t[1]))]
        return 3.0 * sum(((attention(a) - attention(b)) ** 2).mean() for a, b in pairs)

    check(algorithm, features, said, labels, over_teachers(said, of_teacher))


@pytest.mark.parametrize("rows", [ALL, OWN, NONE])
def test_crd_is_noise_contrastive_estimation_against_the_memories(rows):
    """All samples are negatives here, so that nothing is drawn."""
    features, said, labels = batch(rows)
    algorithm = prepared(CRD(weight=2.0, width=5, tau=0.5), routed=rows is OWN)
    before = {name: value.double() for name, value in algorithm.state_dict().items()}

    def normal(x):
        return x / x.norm(dim=1, keepdim=True)

    def of_teacher(position, part):
        def of(name):
            return before[f"adapters.{position}.{name}"]

        def project(who, x):
            weight, bias = of(f"project_{who}.weight"), of(f"project_{who}.bias")
            return normal(x.double() @ weight.T + bias)

        s = project("student", features[-1][part])
        t = project("teacher", said.features[position][-1])
        index = said.index[part].tolist()
        seen = [n for n in range(SAMPLES) if rows is not OWN or (LABELS[n] < 3) == (position == 0)]
        loss = 0
        for anchors, memory in ((s, of("teacher_memory")), (t, of("student_memory"))):
            e = torch.exp(anchors @ memory.T / 0.5)
            others = [[n for n in seen if LABELS[n] != LABELS[i]] for i in index]
            mean = torch.cat([e[r][negatives] for r, negatives in enumerate(others)]).mean()
            z = SAMPLES * mean.detach()
            for row, (i, negatives) in enumerate(zip(index, others, strict=True)):
                noise = len(negatives) / SAMPLES
                p = e[row] / z
                loss = loss - torch.log(p[i] / (p[i] + noise))
                loss = loss - torch.log(noise / (p[negatives] + noise)).sum()
        return 2.0 * loss / len(index)

    exact = over_teachers(said, of_teacher)
    check(algorithm, features, said, labels, exact)
    for position, part in enumerate(said.rows):
        memory = algorithm.state_dict()[f"adapters.{position}.student_memory"]
        moved = (memory.double() != before[f"adapters.{position}.student_memory"]).any(1)
        assert moved.nonzero()[:, 0].tolist() == sorted(said.index[part].tolist())
        torch.testing.assert_close(memory.norm(dim=1), torch.ones(SAMPLES))


def check(algorithm, features, said, labels, exact):
    """Loss and gradients, of student and adapters, are those of ``exact``; none in teachers."""
    expected = torch.autograd.grad(exact, features, allow_unused=True)
    loss = algorithm.feature_loss(features, said, labels)
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert any(grad is not None for grad in expected)
    for feature, grad in zip(features, expected, strict=True):
        if grad is None:
            assert feature.grad is None
            continue
        assert grad.abs().sum() > 0
        torch.testing.assert_close(feature.grad, grad, rtol=1e-3, atol=1e-6)
    for position, part in enumerate(said.rows):
        for parameter in algorithm.adapters[str(position)].parameters():
            asked = part.stop > part.start
            assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == asked
    assert all(t.grad is None for answers in said.features for t in answers)


def test_crd_draws_as_many_as_asked_from_classes_taught():
    algorithm = CRD(width=5, negatives=7)
    taught = context()
    taught.labels[LABELS == 4] = -1
    try:
        algorithm.begin_grade(taught)
        contrast = algorithm.adapters["0"]
        assert (LABELS[contrast.candidates] < 4).all() and len(contrast.candidates) == 32
        drawn = contrast.draw(7)
        assert drawn.shape == (7,) and contrast.draw(50).tolist() == list(range(32))
    finally:
        LABELS[:] = torch.arange(SAMPLES) % 5


def test_crd_normalises_by_its_first_batch_for_good():
    torch.manual_seed(0)
    contrast = Contrast(8, 9, 5, SAMPLES, 0.1, 0.5)
    contrast.candidates, contrast.classes = torch.arange(SAMPLES), LABELS
    assert contrast.log_mean.isnan().all()
    seen = []
    for step in range(2):
        index = torch.tensor([step, step + 1])
        loss = contrast(
            torch.randn(2, 8), torch.randn(2, 9), LABELS[index], index, contrast.draw(99)
        )
        seen.append(contrast.log_mean.clone())
        assert loss.isfinite()
    assert seen[0].isfinite().all() and torch.equal(*seen)


def test_crd_of_a_single_class_has_no_negatives_and_stays_finite():
    contrast = Contrast(8, 9, 5, SAMPLES, 0.1, 0.5)
    contrast.candidates, contrast.classes = torch.arange(SAMPLES), torch.zeros(SAMPLES).long()
    index = torch.tensor([1, 2])
    loss = contrast(torch.randn(2, 8), torch.randn(2, 9), index * 0, index, contrast.draw(99))
    loss.backward()
    assert loss.isfinite() and contrast.log_mean.isnan().all()
    assert contrast.project_student.weight.grad.isfinite().all()


# --- shapes ----------------------------------------------------------------------------------


def test_maps_are_matched_by_size():
    tokens = [(17, 12), (12,)]
    assert matched(STUDENT, TEACHERS[0]) == [(0, 0), (1, 1), (2, 2)]
    assert matched(STUDENT, TEACHERS[1]) == [(0, 0), (1, 1), (2, 1)]
    assert matched(STUDENT, tokens) == [(0, 0), (1, 0), (2, 0)]
    assert matched([(4, 8, 8), (6, 8, 8), (6,)], TEACHERS[0]) == [(1, 0)]  # the deeper of a size
    with pytest.raises(ValueError, match="the student has no feature maps"):
        matched([(4,)], TEACHERS[0])


def test_tokens_become_maps():
    square = torch.randn(2, 6, 4, 4)
    tokens = square.flatten(2).mT
    assert torch.equal(as_map(tokens), square)
    assert torch.equal(as_map(torch.cat([torch.zeros(2, 1, 6), tokens], 1)), square)
    assert as_map(torch.zeros(2, 12, 6)).shape == (2, 6, 12, 1)
    assert as_map(torch.zeros(2, 6)).shape == (2, 6, 1, 1)
    small, same = same_size(square, torch.randn(2, 3, 2, 8))
    assert small.shape == (2, 6, 2, 4) and same.shape == (2, 3, 2, 4)


@pytest.mark.parametrize("name", ["fitnet", "at", "crd"])
def test_any_shapes_on_either_side(name):
    """Maps, tokens and odd sizes: the student's against the teacher's."""
    sides = [
        [(4, 8, 8), (8, 4, 4), (8,)],
        [(17, 6), (6,)],
        [(3, 5, 7), (12, 3, 4), (7,)],
        [(49, 3), (16, 5), (5,)],
    ]
    for student, teacher in itertools.product(sides, sides):
        algorithm = create_algorithm(name)
        shapes = {"student_shapes": student, "teacher_shapes": [teacher], "teachers": (0,)}
        algorithm.begin_grade(GradeContext(**{**vars(context()), **shapes}))
        features = [torch.randn(2, *s).requires_grad_() for s in student]
        answers = [[torch.randn(2, *s).bfloat16() for s in teacher]]
        said = TeacherOutputs([], None, "mean", [slice(0, 2)], answers, torch.tensor([0, 1]))
        algorithm.feature_loss(features, said, LABELS[:2]).backward()
        grads = [f.grad for f in features if f.grad is not None]
        assert grads and all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)


# --- growth and stages -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fitnet", "crd"])
def test_adapters_survive_growth_where_they_fit(name):
    algorithm = create_algorithm(name)
    algorithm.begin_grade(context(student=[STUDENT[1], (8,)], teachers=(0,)))
    first = {n: p.clone() for n, p in algorithm.state_dict().items()}
    kept = algorithm.adapters["0"]
    algorithm.begin_grade(context(student=[*STUDENT[:2], (8,)]))  # one more teacher
    assert list(algorithm.adapters) == ["0", "1"] and algorithm.adapters["0"] is kept
    for n, before in first.items():  # log_mean is still NaN
        torch.testing.assert_close(
            algorithm.state_dict()[n], before, rtol=0, atol=0, equal_nan=True
        )
    algorithm.begin_grade(context(student=[(5, 4, 4), (11,)], teachers=(1,)))
    assert list(algorithm.adapters) == ["1"]
    features, said, labels = batch(ALL)
    with pytest.raises(ValueError, match="features of 2 teachers; expected those of 1"):
        algorithm.feature_loss(features, said, labels)


def test_two_stage_fitnet_hints_first_and_distils_then():
    features, said, labels = batch(ALL)
    logits = torch.randn(BATCH, 5, requires_grad=True)
    algorithm = prepared(FitNet("two_stage", hint_share=0.25))
    plain = KD().logit_loss(logits, said, labels)
    losses = []
    for epoch in range(8):
        algorithm.begin_epoch(epoch, 8)
        of_logits = algorithm.logit_loss(logits, said, labels)
        losses.append((of_logits.item(), algorithm.feature_loss(features, said, labels).item()))
    hint = losses[0][1]
    assert hint > 0
    assert losses == [(0.0, hint)] * 2 + [(plain.item(), 0.0)] * 6


def test_the_logit_part_may_be_any_other_algorithm():
    _, said, labels = batch(ALL)
    logits = torch.randn(BATCH, 5, requires_grad=True)
    algorithm = create_algorithm("at", logits={"name": "dkd", "temperature": 3, "warm_up": 2})
    assert algorithm.temperature == 3.0
    algorithm.begin_epoch(0, 4)
    assert algorithm.logits.warm == 0.5
    alone = create_algorithm("dkd", temperature=3, warm_up=2)
    alone.begin_epoch(0, 4)
    expected = alone.logit_loss(logits, said, labels)
    assert torch.equal(algorithm.logit_loss(logits, said, labels), expected)
    hard = create_algorithm("fitnet", logits={"name": "kd", "alpha": 1})
    torch.testing.assert_close(
        hard.logit_loss(logits, said, labels), nn.functional.cross_entropy(logits, labels)
    )
    assert isinstance(create_algorithm("crd", logits="mse").logits, type(create_algorithm("mse")))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fitnet", {"stage": "three"}, "stage is 'three'; expected 'joint' or 'two_stage'"),
        ("fitnet", {"hint_share": 2}, r"hint_share is 2; expected a finite number in \[0, 1\]"),
        ("at", {"weight": 0}, "weight is 0; expected a finite number above 0"),
        ("at", {"logits": "magic"}, "algorithm is 'magic'"),
        ("at", {"logits": "crd"}, "expected an algorithm that reads logits only"),
        ("at", {"logits": {"alpha": 1}}, "name"),
        ("crd", {"negatives": 0}, "negatives is 0; expected an integer of at least 1"),
        ("crd", {"tau": -math.inf}, "tau is -inf"),
    ],
)
def test_what_does_not_fit_is_told(name, options, message):
    with pytest.raises(UserError, match=message):
        create_algorithm(name, **options)
