"""Features as schools hand them over, and what the tests of feature algorithms share."""

from __future__ import annotations

import torch

from edufast.distill import GradeContext, TeacherOutputs

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
    outputs = TeacherOutputs(logits, None, "mean", rows, answers, index)
    return draw(BATCH, STUDENT), outputs, LABELS[index]


ALL = [slice(0, BATCH)] * 2
OWN = [slice(0, 4), slice(4, BATCH)]
NONE = [slice(0, BATCH), slice(BATCH, BATCH)]


def prepared(algorithm, **keywords):
    torch.manual_seed(0)
    algorithm.begin_grade(context(**keywords))
    return algorithm


def over_teachers(outputs, of_teacher):
    """Mean over the teachers, weighted by rows."""
    terms, rows = [], []
    for position, part in enumerate(outputs.rows):
        if part.stop > part.start:
            terms.append(of_teacher(position, part))
            rows.append(part.stop - part.start)
    return sum(n * t for n, t in zip(rows, terms, strict=True)) / sum(rows)


def check(algorithm, features, outputs, labels, exact):
    """Loss and gradients, of student and adapters, are those of ``exact``; none in teachers."""
    expected = torch.autograd.grad(exact, features, allow_unused=True)
    loss = algorithm.feature_loss(features, outputs, labels)
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert any(grad is not None for grad in expected)
    for feature, grad in zip(features, expected, strict=True):
        if grad is None:
            assert feature.grad is None
            continue
        assert grad.abs().sum() > 0
        torch.testing.assert_close(feature.grad, grad, rtol=1e-3, atol=1e-6)
    for position, part in enumerate(outputs.rows):
        for parameter in algorithm.adapters[str(position)].parameters():
            asked = part.stop > part.start
            assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == asked
    assert all(t.grad is None for answers in outputs.features for t in answers)
