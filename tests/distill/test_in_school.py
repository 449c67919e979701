"""Every algorithm under a curriculum, with its own parameters trained, kept and resumed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

import edufast.training.school as school_module
import edufast.training.step as step_module
from edufast.distill import ALGORITHMS, Algorithm, create_algorithm
from edufast.student.student import Student
from edufast.teachers.targets import TARGETS
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.training.step import TrainStep
from edufast.utils.errors import Interrupted
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data(classes=4, per_class=16)
HALVES = [range(0, 2), range(2, 4)]
FEATURES = [name for name in ALGORITHMS if create_algorithm(name).reads_features]
# Small enough that every batch draws; two stages, the first as long as the first grade.
OPTIONS = {"crd": {"negatives": 10, "width": 8}, "fitnet": {"stage": "two_stage"}}


def school(algorithm: str | Algorithm, target: str = "gated", **keywords) -> School:
    """Two grades: of two slices by their teachers or, "full", of depth by two teachers of all."""
    torch.manual_seed(0)
    full = target == "full"
    grades = [
        Grade(1, range(4) if full else HALVES[0], [2, 3] if full else [0], 1, target),
        Grade(2, () if full else HALVES[1], [3, 2] if full else [0, 1], 3, target),
    ]
    if isinstance(algorithm, str):
        algorithm = create_algorithm(algorithm, **OPTIONS.get(algorithm, {}))
    student = Student(tiny_model(4), 3, input_size=(3, 16, 16))
    faculty = tiny_faculty(*HALVES, range(4), range(4))
    keywords = {"training": TRAINING, "algorithm": algorithm} | keywords
    options = SchoolOptions(checkpoint=keywords.pop("checkpoint", None))
    return School(
        student, faculty, Curriculum(grades, exit_weight=0.5), DATA, options=options, **keywords
    )


def test_an_algorithm_with_adapters_goes_to_school_once():
    algorithm = create_algorithm("fitnet")
    school(algorithm).begin_grade()
    with pytest.raises(ValueError, match=r"learned in another School; expected a new FitNet$"):
        school(algorithm)
    algorithm = create_algorithm("at")  # nothing to learn
    school(algorithm).begin_grade()
    school(algorithm)


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "none"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_teaches_graded(name, target):
    taught = school(name, target)
    before = [p.detach().clone() for p in taught.student.model.parameters()]
    graduate = taught.fit()
    assert taught.progress.samples == (64 if target == "full" else 32) + 2 * 64
    for old, new in zip(before, graduate.parameters(), strict=True):
        assert new.isfinite().all() and not torch.equal(old, new)
    own = list(taught.algorithm.parameters())
    groups = taught.step.optimizer.param_groups
    assert [len(group["params"]) for group in groups[1:]] == ([len(own)] if own else [])
    assert {id(p) for p in groups[0]["params"]} == set(map(id, taught.student.active_parameters()))
    assert all(torch.any(taught.step.optimizer.state[p]["momentum_buffer"] != 0) for p in own)


@pytest.mark.parametrize("name", ["kd", "dkd", *FEATURES])
def test_any_algorithm_without_grades(name):
    torch.manual_seed(0)
    curriculum = Curriculum.single(range(4), 1, teachers=[0], target="full")
    student = Student(tiny_model(4), 1, input_size=(3, 16, 16))
    faculty = tiny_faculty(range(4))
    options = {"algorithm": name, "training": TRAINING}
    taught = School(student, faculty, curriculum, DATA, **options)
    assert type(taught.fit()) is nn.Sequential


@pytest.mark.parametrize("stop", [1, 3, 8])  # within the first grade, at and after growth
@pytest.mark.parametrize("name", ["dkd", *FEATURES])
def test_resumed_with_adapters_and_memories_to_the_same_bits(name, stop, tmp_path, monkeypatch):
    expected = school(name)
    expected.fit()
    steps, step = 0, School.train_step

    def counting(self, *arguments):
        nonlocal steps
        steps += 1
        return step(self, *arguments)

    @contextmanager
    def interrupted_after_stop():
        yield lambda: steps == stop

    monkeypatch.setattr(School, "train_step", counting)
    monkeypatch.setattr(school_module, "deferred_interrupt", interrupted_after_stop)
    path = tmp_path / "c.pt"
    with pytest.raises(Interrupted):
        school(name, checkpoint=path).fit()
    torch.manual_seed(12345)  # whatever happens in between
    resumed = school(name, checkpoint=path)
    resumed.fit()
    for part in ("student", "algorithm"):
        states = [getattr(s, part).state_dict() for s in (expected, resumed)]
        assert list(states[0]) == list(states[1])
        for key, tensor in states[0].items():
            torch.testing.assert_close(states[1][key], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_grade_without_teachers_asks_nothing_and_keeps_adapters():
    """In between, and resumed from there: the state has the adapters of the grade before."""
    torch.manual_seed(0)
    curriculum = Curriculum(
        [Grade(1, range(4), [0]), Grade(1, fragments=2), Grade(1, (), [0], fragments=3)]
    )
    student = Student(tiny_model(4), 3, input_size=(3, 16, 16))
    algorithm = create_algorithm("crd", **OPTIONS["crd"])
    taught = School(
        student, tiny_faculty(range(4)), curriculum, DATA, algorithm=algorithm, training=TRAINING
    )
    taught.fit()
    assert list(algorithm.adapters) == ["0"]


def test_epochs_are_counted_over_the_whole_training():
    told = []

    class Listening(Algorithm):
        def begin_grade(self, context):
            told.append((context.student_shapes, context.teachers, context.labels.max().item()))

        def begin_epoch(self, epoch, epochs):
            told.append((epoch, epochs))

        def logit_loss(self, logits, outputs, labels):
            return nn.functional.cross_entropy(logits, labels)

    school(Listening(1.0)).fit()
    assert told == [
        ([(8, 8, 8), (128,)], (0,), 1),
        (0, 3),
        ([(8, 8, 8), (16, 4, 4), (16, 2, 2), (64,)], (0, 1), 3),
        (1, 3),
        (2, 3),
    ]


def test_two_stages_of_fitnet_in_a_training():
    """While the hint teaches, what lies above the guided layer only decays."""
    torch.manual_seed(0)
    curriculum = Curriculum.single(range(4), 4, teachers=[0], target="full")
    student = Student(tiny_model(4), 1, input_size=(3, 16, 16))
    algorithm = create_algorithm("fitnet", stage="two_stage", hint_share=0.5)
    rows = []

    class Watching(School):
        def begin_epoch(self):
            super().begin_epoch()
            self.before = self.student.classifier.weight.detach().clone()

        def validate(self):
            change = self.student.classifier.weight.detach() / self.before
            rows.append(change.std().item())
            return super().validate()

    Watching(
        student, tiny_faculty(range(4)), curriculum, DATA, algorithm=algorithm, training=TRAINING
    ).fit()
    assert max(rows[:2]) < 1e-5 < min(rows[2:])


@pytest.mark.parametrize("name", ["dist", *FEATURES])
def test_what_an_algorithm_learns_and_remembers_is_compiled_along_once_a_grade(name, monkeypatch):
    counts = []

    class Counted(TrainStep):
        def update(self):
            super().update()
            counts.append(self.compiles)

    monkeypatch.setattr("edufast.training.step.BACKEND", "eager")
    monkeypatch.setattr("edufast.training.school.TrainStep", Counted)
    training = replace(TRAINING, compile=True)
    school(name, "routed", training=training).fit()
    assert set(counts) == {1}


def test_an_algorithm_and_a_weighting_of_the_users_are_compiled_to_the_same_bits(
    mypackage, monkeypatch
):
    """Looked up once and checked in every step, without a break in the graph."""
    mypackage.write(
        own="""
        import torch
        from torch.nn import functional as F
        from edufast.distill import KD

        def by_entropy(logits, outputs, labels, temperature):
            soft = [torch.log_softmax(t.float(), 1) for t in outputs.logits]
            return torch.softmax(torch.stack([(p.exp() * p).sum(1) for p in soft], 1), 1)

        class Weighted(KD):
            def logit_loss(self, logits, outputs, labels):
                wrong = outputs.logits[0].argmax(1) != labels
                return super().logit_loss(logits, outputs, labels) * (1 + wrong.float().mean())
        """
    )
    monkeypatch.setattr(step_module, "BACKEND", "aot_eager")
    states = []
    for compiled in (False, True):
        algorithm = create_algorithm("mypackage.own:Weighted", weighting="mypackage.own:by_entropy")
        training = replace(TRAINING, compile=compiled)
        taught = school(algorithm, "full", training=training)
        taught.fit()
        states.append(taught.student.state_dict())
    assert taught.step.compiles == 1
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("target", ["gated", "joint", "centred", "energy"])
@pytest.mark.parametrize("name", ["kd", "mse"])
def test_merged_targets_are_compiled_to_the_same_bits(name, target, monkeypatch):
    monkeypatch.setattr(step_module, "BACKEND", "aot_eager")
    states = []
    for compiled in (False, True):
        taught = school(name, target, training=replace(TRAINING, compile=compiled))
        taught.fit()
        states.append(taught.student.state_dict())
    assert taught.step.compiles == 1
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["fitnet", "crd"])
def test_compiled_once_a_grade_to_the_same_bits(name, monkeypatch):
    """Stages, memories and draws within the graph, its backward pass included."""
    monkeypatch.setattr(step_module, "BACKEND", "aot_eager")
    states = []
    for compiled in (False, True):
        taught = school(name, "routed", training=replace(TRAINING, compile=compiled))
        taught.fit()
        states.append({**taught.student.state_dict(), **taught.algorithm.state_dict()})
    assert taught.step.compiles == 1  # the second grade's
    for key, tensor in states[0].items():
        torch.testing.assert_close(states[1][key], tensor, rtol=0, atol=0, equal_nan=True)
