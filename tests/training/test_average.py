"""The moving average of a student: after every step, across grades, and what it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import edufast.training.school as school_module
from edufast.distill import KD
from edufast.student.student import Student
from edufast.training.average import Average
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.evaluation import evaluate_on
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import Interrupted, UserError
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
SLICES = [range(0, 2), range(2, 4), range(4, 6)]
GRADED = Curriculum.graded(SLICES, 4, shares=[1, 1, 2])


def school(ema: float, curriculum: Curriculum = GRADED, checkpoint: Path | None = None) -> School:
    torch.manual_seed(3)
    return School(
        Student(tiny_model(), curriculum.fragments[-1], input_size=(3, 16, 16)),
        tiny_faculty(*SLICES),
        curriculum,
        DATA,
        algorithm=KD(alpha=0.9),
        training=replace(TRAINING, ema=ema),
        options=SchoolOptions(checkpoint=checkpoint),
    )


def grades(taught: School) -> Iterator[Callable[[], Iterator[None]]]:
    """Begins each grade in turn; gives what then makes its steps, one at a time."""
    for g, plan in enumerate(taught.plans):
        taught.progress.grade = g
        taught.begin_grade()

        def steps(epochs: int = plan.grade.epochs) -> Iterator[None]:
            for epoch in range(epochs):
                taught.progress.epoch, taught.progress.step = epoch, 0
                taught.begin_epoch()
                for batch in taught.loader.epoch(epoch):
                    taught.train_step(batch)
                    yield

        yield steps


def tensors(student: Student) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in student.state_dict().items()}


@pytest.mark.parametrize("ema", [0.5, 0.99])
def test_after_every_step_it_has_moved_by_its_share_and_what_is_new_begins_as_it_is(ema):
    taught, before = school(ema, replace(GRADED, exit_weight=0.0)), {}
    for g, steps in enumerate(grades(taught)):
        expected, now = tensors(taught.evaluated), tensors(taught.student)
        heads = {name for name in expected if name.startswith("head.")}
        new = expected.keys() - before.keys() if g else expected.keys()
        # A head of the same name reads another fragment.
        assert all(torch.equal(expected[name], now[name]) for name in new | heads)
        known = before.keys() & expected.keys() - heads
        assert all(torch.equal(expected[name], before[name]) for name in known)
        for _ in steps():
            for name, value in tensors(taught.student).items():
                kept = expected[name]
                moved = ema * kept.double() + (1 - ema) * value.double()
                expected[name] = moved.float() if value.is_floating_point() else value
            for name, value in tensors(taught.evaluated).items():
                torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
        before = tensors(taught.evaluated)
    assert taught.evaluated.depths == taught.student.depths == (3,)


def test_what_has_not_grown_yet_keeps_every_bit():
    taught = school(0.9)
    start = tensors(taught.student)
    for steps in grades(taught):
        list(steps())
        break
    idle = [f"model.{name}" for name in taught.student.fragments[2].parameters]
    assert idle and all(torch.equal(tensors(taught.evaluated)[name], start[name]) for name in idle)
    counts = {k: int(v) for k, v in tensors(taught.evaluated).items() if k.endswith("tracked")}
    assert counts["model.0.1.num_batches_tracked"] == 3
    assert counts["model.1.1.num_batches_tracked"] == 0  # of a fragment that has not grown


def test_heads_that_become_exits_keep_their_average():
    taught = school(0.9)  # keeps exits
    begun = grades(taught)
    list(next(begun)())
    before = tensors(taught.evaluated)
    next(begun)
    now = tensors(taught.evaluated)
    for name in (name for name in before if name.startswith("head.")):
        exit = now[name.replace("head.", "exits.1.")]
        assert torch.equal(exit[: len(before[name])] if exit.dim() else exit, before[name])
    assert taught.evaluated.depths == taught.student.depths == (1, 2)


def test_rows_of_new_classes_join_the_average_of_the_others():
    wider = Curriculum([Grade(1, SLICES[0]), Grade(1, SLICES[1], fragments=1), Grade(1, SLICES[2])])
    taught = school(0.9, wider)
    begun = grades(taught)
    list(next(begun)())
    before = taught.evaluated.head.linear.weight.detach().clone()
    next(begun)
    average, student = taught.evaluated.head.linear.weight, taught.student.head.linear.weight
    assert torch.equal(average[:2], before) and not torch.equal(average[:2], student[:2])
    assert torch.equal(average[2:], student[2:]) and len(average) == 4


def test_it_is_what_is_validated_and_graduates():
    curriculum = Curriculum.single(range(6), 12)
    taught = school(0.9, curriculum)
    graduate = taught.fit()
    for name, value in graduate.state_dict().items():
        average = taught.evaluated.model.state_dict()[name]
        assert torch.equal(value, average)
        if value.is_floating_point():
            assert not torch.equal(value, taught.student.model.state_dict()[name])
    found = evaluate_on(graduate, DATA, curriculum.class_map)
    assert found.overall == taught.progress.accuracy > 0.9


def test_without_it_the_student_itself_is_validated():
    taught = school(0.0)
    taught.fit()
    assert taught.evaluated is taught.student and "average" not in taught.state_dict()


@pytest.mark.parametrize("stop", [2, 3, 9, 20])  # within epochs, and at a grade's end
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, stop):
    expected = school(0.9)
    expected.fit()
    steps = 0
    step = School.train_step

    def counting(self: School, batch: Any) -> Tensor:
        nonlocal steps
        steps += 1
        return step(self, batch)

    @contextmanager
    def interrupted() -> Iterator[Callable[[], bool]]:
        yield lambda: steps == stop

    monkeypatch.setattr(School, "train_step", counting)
    monkeypatch.setattr(school_module, "deferred_interrupt", interrupted)
    with pytest.raises(Interrupted):
        school(0.9, checkpoint=tmp_path / "c.pt").fit()
    torch.manual_seed(12345)
    resumed = school(0.9, checkpoint=tmp_path / "c.pt")
    resumed.fit()
    for found, wanted in (
        (resumed.student, expected.student),
        (resumed.evaluated, expected.evaluated),
    ):
        assert all(map(torch.equal, found.state_dict().values(), wanted.state_dict().values()))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [(0.9, 0.0, "has an average.*ema 0$"), (0.0, 0.9, "has no .*0.9")],
)
def test_a_checkpoint_of_a_training_with_other_averages_is_refused(first, second, message):
    one, other = school(first), school(second)
    one.begin_grade()
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(one.state_dict())


def test_it_is_kept_in_float32():
    student = Student(tiny_model().to(torch.bfloat16), 1, input_size=(3, 16, 16))
    average = Average(student, 0.999)
    for each in (student, average.student):
        each.grow(fragments=1, classes=6)
    average.follow(student)
    for _ in range(3000):
        with torch.no_grad():
            student.classifier.bias.fill_(3.0)
        average.update()
    bias = average.student.classifier.bias
    assert bias.dtype == torch.float32
    torch.testing.assert_close(bias, torch.full_like(bias, 3.0), rtol=0.06, atol=0)


def test_there_is_nothing_to_average_before_it_follows():
    average = Average(Student(tiny_model(), 1, input_size=(3, 16, 16)), 0.9)
    with pytest.raises(RuntimeError, match=r"call follow\(\) first"):
        average.update()


def test_on_a_gpu_without_its_own_backend_it_is_averaged_by_what_can_be_captured(monkeypatch):
    import edufast.training.average as module

    asked = []
    plan = module.MergePlan
    monkeypatch.setattr(module, "select_backend", lambda *_: "triton")
    monkeypatch.setattr(
        module, "MergePlan", lambda *a, backend: asked.append(backend) or plan(*a, backend=backend)
    )
    school(0.9, Curriculum.single(range(6), 1)).fit()
    assert asked == ["reference"]


def test_a_student_that_cannot_be_copied_is_told_in_a_line() -> None:
    model = tiny_model()
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(model[0][0])  # whose weight is computed from others
    student = Student(model, 3, input_size=(3, 16, 16))
    with pytest.raises(UserError, match=r"^the student cannot be copied: .*weight_norm.*$"):
        Average(student, 0.9)
