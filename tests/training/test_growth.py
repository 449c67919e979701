"""Student, algorithm and optimiser grow from grade to grade and keep what they learned."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from edufast.data.class_map import ClassMap
from edufast.distill import KD, Algorithm, GradeContext
from edufast.student.student import Student
from edufast.teachers.supervision import Supervision
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.growth import Growth
from edufast.training.settings import Training
from tests.tiny import tiny_faculty, tiny_model

SIZE = (3, 16, 16)
IDS = torch.tensor([4, 0, 2, 5, 1, 7, 0])  # of the training samples; 5 and 7 are never taught
SLICES = [(4, 0), (2, 1)]


class Recorder(KD):
    """Keeps every context it is given; its parameters are a lasting one and one for each grade."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[GradeContext] = []
        self.lasting: nn.Parameter | None = None
        self.adapter: nn.Parameter | None = None

    def begin_grade(self, context: GradeContext) -> None:
        self.contexts.append(context)
        if self.lasting is None:
            self.lasting = nn.Parameter(torch.ones(2))
        self.adapter = nn.Parameter(torch.zeros(3))


class FeatureRecorder(Recorder):
    reads_features = True


def graded(*, target: str = "gated", **options: object) -> Curriculum:
    """Two grades: a slice, a fragment and a teacher each."""
    grades = [Grade(1, SLICES[g], range(g + 1), target=target) for g in range(2)]
    return Curriculum(grades, **options)


def grown(
    curriculum: Curriculum, algorithm: Algorithm | None = None, training: Training | None = None
) -> tuple[Growth, Student]:
    torch.manual_seed(0)
    student = Student(tiny_model(4), 2, input_size=SIZE)
    faculty = tiny_faculty(*SLICES)
    supervisions = [
        Supervision(faculty, grade.teachers, grade.target, curriculum.taught(g), temperature=4.0)
        for g, grade in enumerate(curriculum.grades)
    ]
    growth = Growth(
        student, algorithm or KD(), curriculum, supervisions, training or Training(), IDS
    )
    return growth, student


def learn(growth: Growth, parameters: Sequence[nn.Parameter]) -> None:
    """One step with gradients that differ from parameter to parameter."""
    for number, parameter in enumerate(parameters, 1):
        parameter.grad = torch.full_like(parameter, float(number))
    growth.optimizer.step()
    growth.optimizer.zero_grad()


def test_no_grade_has_begun_at_first_and_the_classes_are_the_curriculums():
    growth, student = grown(graded())
    assert growth.begun == 0 and student.grown == 0
    assert student.class_map == ClassMap.of(*SLICES)
    with pytest.raises(RuntimeError, match="no grade has begun yet"):
        _ = growth.optimizer


def test_a_grade_is_reached_by_way_of_those_before_it_and_begins_once():
    algorithm = Recorder()
    growth, student = grown(graded(), algorithm)
    growth.begin(1)
    assert growth.begun == 2 and (student.grown, student.classes) == (2, 4)
    assert [context.teachers for context in algorithm.contexts] == [(0,), (0, 1)]
    optimizer = growth.optimizer
    growth.begin(0)
    growth.begin(1)
    assert growth.begun == 2 and growth.optimizer is optimizer and len(algorithm.contexts) == 2


def test_targets_are_positions_and_classes_not_taught_yet_have_none():
    algorithm = Recorder()
    grown(graded(), algorithm)[0].begin(1)
    first, second = (context.labels.tolist() for context in algorithm.contexts)
    # In the order of the logits: 4, 0 | 2, 1.
    assert first == [0, 1, -1, -1, -1, -1, 1]
    assert second == [0, 1, 2, -1, 3, -1, 1]
    assert algorithm.contexts[0].num_samples == len(IDS)


@pytest.mark.parametrize(
    ("target", "first", "second"),
    [("gated", None, None), ("routed", [0, 0, -1, -1, -1, -1, 0], [0, 0, 1, -1, 1, -1, 0])],
)
def test_owners_are_the_teachers_that_samples_are_routed_to(target, first, second):
    algorithm = Recorder()
    grown(graded(target=target), algorithm)[0].begin(1)
    owners = [context.owners for context in algorithm.contexts]
    assert [None if o is None else o.tolist() for o in owners] == [first, second]


def test_teachers_are_tapped_for_algorithms_that_read_features_only():
    plain, reading = Recorder(), FeatureRecorder()
    for algorithm in (plain, reading):
        growth, student = grown(graded(), algorithm)
        growth.begin(1)
        assert algorithm.contexts[1].student_shapes == student.feature_shapes
    assert [context.teacher_shapes for context in plain.contexts] == [[], []]
    assert [len(context.teacher_shapes) for context in reading.contexts] == [1, 2]
    assert (8, 8, 8) in reading.contexts[1].teacher_shapes[1]


def test_the_algorithms_parameters_have_a_group_of_their_own_behind_the_students():
    algorithm = Recorder()
    growth, student = grown(graded(), algorithm)
    for g in range(2):
        growth.begin(g)
        own, students = growth.optimizer.param_groups[1], growth.optimizer.param_groups[0]
        assert len(growth.optimizer.param_groups) == 2
        assert list(map(id, students["params"])) == list(map(id, student.active_parameters()))
        assert list(map(id, own["params"])) == list(map(id, algorithm.parameters()))


def test_what_is_kept_keeps_its_momentum_and_what_is_replaced_is_forgotten():
    algorithm = Recorder()
    growth, student = grown(graded(), algorithm)
    growth.begin(0)
    state = growth.optimizer.state
    replaced = {algorithm.adapter, *student.head.parameters()}
    learn(growth, [*student.active_parameters(), *algorithm.parameters()])
    before = {
        parameter: values["momentum_buffer"].clone()
        for parameter, values in state.items()
        if parameter not in replaced
    }
    assert algorithm.lasting in before and all(buffer.any() for buffer in before.values())
    growth.begin(1)
    for parameter, buffer in before.items():
        assert torch.equal(state[parameter]["momentum_buffer"], buffer)
    assert not replaced & set(state)


def test_new_parameters_start_with_zero_momentum_so_that_the_fused_kernel_takes_all():
    algorithm = Recorder()
    growth, student = grown(graded(), algorithm)
    for g in range(2):
        old = set(growth.optimizer.state) if g else set()
        growth.begin(g)
        active = [*student.active_parameters(), *algorithm.parameters()]
        assert set(growth.optimizer.state) == set(active)
        for parameter in set(active) - old:
            buffer = growth.optimizer.state[parameter]["momentum_buffer"]
            assert buffer.shape == parameter.shape and not buffer.any()
            assert not buffer.requires_grad
        learn(growth, active)


@pytest.mark.parametrize(
    "training", [Training(optimizer="adamw"), Training(momentum=0.0)], ids=["adamw", "plain sgd"]
)
def test_optimisers_without_momentum_buffers_are_given_none(training):
    growth, _ = grown(graded(), training=training)
    growth.begin(1)
    assert not growth.optimizer.state


def test_the_authors_way_forgets_the_state_of_all():
    growth, student = grown(graded(keep_state=False))
    growth.begin(0)
    learn(growth, list(student.active_parameters()))
    growth.begin(1)
    assert not any(state["momentum_buffer"].any() for state in growth.optimizer.state.values())


def test_kept_exits_go_on_learning():
    growth, student = grown(graded(exit_weight=0.5))
    growth.begin(1)
    exits = set(student.exits.parameters())
    assert student.depths == (1, 2)
    assert exits and exits <= set(growth.optimizer.param_groups[0]["params"])


def test_a_grade_without_teachers_does_not_ask_the_algorithm_and_keeps_its_parameters():
    algorithm = Recorder()
    curriculum = Curriculum([Grade(1, SLICES[0], [0]), Grade(1, SLICES[1])])
    growth, _ = grown(curriculum, algorithm)
    growth.begin(0)
    adapter = algorithm.adapter
    growth.begin(1)
    assert len(algorithm.contexts) == 1
    assert any(p is adapter for p in growth.optimizer.param_groups[1]["params"])


def test_a_grade_that_adds_nothing_leaves_the_student_as_it_is():
    curriculum = Curriculum([Grade(1, (4, 0, 2, 1), fragments=2), Grade(1, fragments=2)])
    growth, student = grown(curriculum)
    growth.begin(0)
    learn(growth, list(student.active_parameters()))
    before = {p: s["momentum_buffer"].clone() for p, s in growth.optimizer.state.items()}
    growth.begin(1)
    assert growth.begun == 2 and set(growth.optimizer.state) == set(before)
    for parameter, buffer in before.items():
        assert torch.equal(growth.optimizer.state[parameter]["momentum_buffer"], buffer)


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        (Curriculum.single(range(3), 1), "the student has 4 classes, the curriculum teaches 3"),
        (Curriculum.single(range(4), 1), "cut into 2 fragments, the curriculum ends with 1"),
        (
            Curriculum([Grade(1, range(4), image_size=32), Grade(1)]),
            r"grade 1: image_size is 32;.* at most .*\(3, 16, 16\)",
        ),
        (
            Curriculum([Grade(1, range(4)), Grade(1)], keep_rows=True),
            r"keep_rows is True, but rows of \d+ features cannot become rows of \d+ in grade 2",
        ),
    ],
)
def test_a_student_that_does_not_fit_is_refused_before_anything_changes(curriculum, message):
    student = Student(tiny_model(4), 2, input_size=SIZE)
    before = student.class_map
    with pytest.raises(ValueError, match=message):
        Growth(student, KD(), curriculum, [], Training(), IDS)
    assert student.class_map == before and student.grown == 0 and student.image_size is None


def test_each_grade_has_its_image_size():
    sizes = [8, 12, None]
    grades = [
        Grade(1, (4, 0), image_size=8),
        Grade(1, (2, 1), image_size=12),
        Grade(1, fragments=2),
    ]
    growth, student = grown(Curriculum(grades))
    for g, size in enumerate(sizes):
        growth.begin(g)
        assert student.image_size == size
