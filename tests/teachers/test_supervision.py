from __future__ import annotations

import pytest
import torch

from edufast.data import Batch
from edufast.data.class_map import ClassMap
from edufast.distill import KD
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.supervision import Supervision
from edufast.teachers.targets import TARGETS, SliceLogits, register_target
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.teachers.targets.cases import MERGED
from tests.tiny import TRAINING, constant_faculty, tiny_data, tiny_faculty, tiny_model

IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def batch_of(labels, parts=()):
    return Batch(IMAGES, labels, torch.arange(len(labels)), None, parts)


def test_routing_shows_each_image_to_its_owner_only():
    faculty = constant_faculty([0, 1], [2, 3, 4])
    supervision = Supervision(faculty, [0, 1], "routed", ClassMap.of(range(6)), 4.0)
    assert supervision.groups == [(0, 1), (2, 3, 4), (5,)]
    labels = torch.tensor([1, 0, 4, 2, 3, 5])
    outputs = supervision(batch_of(labels, (2, 3, 1)), labels)
    assert [faculty.model(k).seen for k in (0, 1)] == supervision.visits == [2, 3]
    assert outputs.rows == [slice(0, 2), slice(2, 5)] and outputs.weighting == "routed"
    assert outputs.index.tolist() == list(range(6)) and outputs.features == [[], []]
    for k, (logits, rows) in enumerate(zip(outputs.logits, outputs.rows, strict=True)):
        assert torch.equal(logits[rows], faculty.logits(k, IMAGES)[rows])
        assert logits.isnan().all(1).sum() == 6 - (rows.stop - rows.start)


def test_routed_is_what_running_everyone_and_picking_gives():
    """Through a real loader, in both orders; a class of nobody's among them."""
    data, faculty = tiny_data(), tiny_faculty([4, 0], [1, 2, 3])
    for order in ("mixed", "slices"):
        grades = [Grade(1, [0, 4, 5]), Grade(1, [1, 2, 3], [0, 1], target="routed")]
        curriculum = Curriculum(grades, order=order)
        school = School(
            Student(tiny_model(), 2, input_size=(3, 16, 16)),
            faculty,
            curriculum,
            data,
            training=TRAINING,
        )
        positions, visits = curriculum.class_map.positions(), [0, 0]
        _, supervision, loader = school.plans[1]
        for batch in loader.epoch(0):
            outputs = supervision(batch, positions[batch.labels])
            for k, logits in enumerate(outputs.logits):
                with torch.no_grad():
                    everyone = faculty.model(k)(batch.images)
                own = torch.isin(batch.labels, torch.tensor(faculty[k].classes))
                torch.testing.assert_close(logits[own], everyone[own])
                assert logits[~own].isnan().all()
                visits[k] += int(own.sum())
        assert supervision.visits == visits and sum(visits) > 100


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "none"])
def test_nothing_is_read_from_the_device(target):
    """The meta device has shapes but no values, so that reading one fails."""
    teachers = [Teacher(tiny_model(3), range(3)), Teacher(tiny_model(3), range(3, 6))]
    everyone = Teacher(tiny_model(6), range(6))
    faculty = Faculty([everyone] if target == "full" else teachers, "meta")
    supervision = Supervision(faculty, range(len(faculty)), target, ClassMap.of(range(6)), 4.0)
    labels = torch.zeros(8, dtype=torch.int64, device="meta")
    images = torch.empty(8, 3, 16, 16, device="meta")
    parts = (5, 3) if target == "routed" else (8,)
    outputs = supervision(Batch(images, labels, labels, None, parts), labels)
    assert all(len(logits) == 8 for logits in outputs.logits)


def test_a_teacher_of_nothing_in_a_batch_is_not_asked():
    faculty = constant_faculty([0, 1], [2, 3])
    supervision = Supervision(faculty, [0, 1], "routed", ClassMap.of(range(4)), 4.0)
    labels = torch.tensor([2, 3, 2, 3, 2, 3])
    outputs = supervision(batch_of(labels, (0, 6)), labels)
    assert supervision.visits == [0, 6] and faculty.model(0).seen == 0
    assert outputs.logits[0].shape == (6, 2) and outputs.logits[0].isnan().all()
    assert outputs.rows[0] == slice(0, 0)
    # And the loss does not mind.
    assert KD().logit_loss(torch.zeros(6, 4), outputs, labels).isfinite()


def test_a_routed_grade_wants_its_groups():
    supervision = Supervision(
        constant_faculty([0, 1], [2]), [0, 1], "routed", ClassMap.of(range(3)), 4.0
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    with pytest.raises(ValueError, match=r"of a Loader\(groups=supervision.groups\)"):
        supervision(batch_of(labels), labels)


def test_visits_are_counted():
    faculty = constant_faculty([0, 1], [2, 3], [0, 1, 2, 3])
    labels = torch.tensor([0, 0, 1, 1, 2, 3])
    routed = Supervision(faculty, [0, 1], "routed", ClassMap.of(range(4)), 4.0)
    for _ in range(2):
        routed(batch_of(labels, (4, 2)), labels)
    assert routed.visits == [8, 4, 0]
    gated = Supervision(faculty, [0, 1], "gated", ClassMap.of(range(4)), 4.0)
    assert gated(batch_of(labels), labels).logits[0].shape == (6, 4)
    assert gated.visits == [6, 6, 0] and gated.groups == [(0, 1, 2, 3)]
    assert (
        Supervision(faculty, [], "none", ClassMap.of(range(4)), 4.0)(batch_of(labels), labels)
        is None
    )


def test_full_target_restricts_to_the_classes_taught_in_their_order():
    faculty = constant_faculty([3, 1, 0, 2])
    labels = torch.zeros(6, dtype=torch.long)
    outputs = Supervision(faculty, [0], "full", ClassMap.of([0, 3]), 4.0)(batch_of(labels), labels)
    everything = faculty.logits(0, IMAGES)
    assert torch.equal(outputs.logits[0], everything[:, [2, 0]])


class Means:
    """Taps the mean of every image a model is shown."""

    def __init__(self, model):
        self.model, self.features = model, []

    def __enter__(self):
        self.hook = self.model.register_forward_pre_hook(self.listen)

    def __exit__(self, *_):
        self.hook.remove()

    def listen(self, _, inputs):
        self.features = [inputs[0].mean((1, 2, 3))]


@pytest.mark.parametrize("target", ["routed", *MERGED])
def test_features_are_of_the_rows_a_teacher_sees(target):
    faculty = constant_faculty([0, 1], [2, 3])
    supervision = Supervision(faculty, [0, 1], target, ClassMap.of(range(4)), 4.0)
    supervision.taps = [Means(faculty.model(k)) for k in (0, 1)]
    labels = torch.tensor([0, 1, 0, 1, 2, 3])
    outputs = supervision(batch_of(labels, (4, 2)), labels)
    for rows, (means,) in zip(outputs.rows, outputs.features, strict=True):
        assert torch.equal(means, IMAGES[rows].mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], "routed", range(4)), "teacher 5 is not in the faculty of 3"),
        (([0, 2], "gated", range(4)), "class 0 belongs to teacher 0 and to teacher 2"),
        (([0], "full", range(4)), "it does not know class 2"),
        (([1], "routed", range(2)), "knows class 2, but none of the 2 classes taught"),
    ],
)
def test_supervisions_that_do_not_fit_say_why(arguments, message):
    faculty = constant_faculty([0, 1], [2, 3], [0, 1, 2, 3])
    with pytest.raises(ValueError, match=message):
        teachers, target, taught = arguments
        Supervision(faculty, teachers, target, ClassMap.of(taught), 4.0)


# --- merged targets --------------------------------------------------------------------------


@pytest.fixture
def registrations_are_forgotten(monkeypatch):
    monkeypatch.setattr(TARGETS, "_entries", dict(TARGETS._entries))


@pytest.mark.parametrize("target", MERGED)
def test_teachers_are_merged_over_the_classes_taught_so_far(target):
    """Teacher 0 knows classes 9 and 7, too, which are not taught yet."""
    faculty = constant_faculty([9, 4, 7, 0], [1, 3])
    class_map = ClassMap.of([3, 0], [4, 1, 5])
    class_ids = torch.tensor([3, 0, 4, 1, 5, 3])
    positions = class_map.positions()[class_ids]
    outputs = Supervision(faculty, [0, 1], target, class_map, 2.0)(batch_of(class_ids), positions)
    first, second = (faculty.logits(k, IMAGES) for k in (0, 1))
    given = SliceLogits(
        [first[:, [1, 3]], second],
        [torch.tensor([2, 1]), torch.tensor([3, 0])],
        torch.tensor([1, 0, 0, 1, -1, 1]),
        positions,
        5,
    )
    (merged,) = outputs.logits
    torch.testing.assert_close(merged, TARGETS.find(target)(given, 2.0))
    assert outputs.slices is None and outputs.weighting == "mean"
    assert merged[:, 4].isneginf().all() and merged[:, :4].isfinite().all()


def test_a_routed_teacher_of_later_classes_answers_for_those_taught():
    faculty = constant_faculty([9, 4, 7, 0], [1, 3])
    supervision = Supervision(faculty, [0, 1], "routed", ClassMap.of([3, 0, 1]), 2.0)
    assert supervision.groups == [(0,), (1, 3)]
    outputs = supervision(batch_of(torch.zeros(6), (2, 4)), torch.tensor([1, 1, 0, 2, 0, 2]))
    assert torch.equal(outputs.logits[0][:2], faculty.logits(0, IMAGES)[:2, [3]])
    assert [slices.tolist() for slices in outputs.slices.columns] == [[], [2, 0]]


@pytest.mark.usefixtures("registrations_are_forgotten")
def test_a_function_of_the_users_is_given_what_it_needs_and_held_to_its_shape():
    told = []

    def mine(teachers, temperature):
        told.append((teachers, temperature))
        return teachers.assemble(teachers.logits).requires_grad_()

    register_target("mine")(mine)
    faculty, class_map = constant_faculty([0, 1], [2, 3]), ClassMap.of(range(4))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])

    def merged(target):
        return Supervision(faculty, [0, 1], target, class_map, 3.0)(batch_of(labels), labels)

    assert not merged("mine").logits[0].requires_grad, "teachers are constants"
    ((teachers, temperature),) = told
    assert temperature == 3.0 and teachers.classes == 4 and teachers.labels is labels
    assert teachers.owners.tolist() == [0, 0, 1, 1, 0, 0]
    for number, (wrong, message) in enumerate(
        {
            lambda *_: None: r"returned NoneType; expected a Tensor \(6, 4\)",
            lambda teachers, _: teachers.logits[
                0
            ]: r"returned \(6, 2\); expected a Tensor \(6, 4\)",
            lambda teachers, _: teachers.logit: r"AttributeError: .*test_supervision.py, line",
        }.items()
    ):
        register_target(f"wrong{number}")(wrong)
        with pytest.raises(UserError, match=f"target 'wrong{number}':? {message}"):
            merged(f"wrong{number}")


@pytest.mark.parametrize("target", MERGED)
def test_stored_logits_are_merged_like_live_ones(target, tmp_path):
    data = tiny_data(classes=4, per_class=8)

    def trained(make):
        torch.manual_seed(0)
        teachers = [Teacher(tiny_model(3), [0, 1, 5]), Teacher(tiny_model(2), [2, 3])]
        curriculum = Curriculum.single(range(4), 2, teachers=[0, 1], target=target)
        student = Student(tiny_model(4), 1, input_size=(3, 16, 16))
        school = School(student, make(teachers), curriculum, data, training=TRAINING)
        weights = [p.detach() for p in school.fit().parameters()]
        return weights, school.progress.teacher_flops

    live, flops = trained(Faculty)
    assert flops > 0
    store = {"folder": tmp_path, "stored_dtype": torch.float32}
    for _ in range(2):  # stored, then read
        stored, flops = trained(lambda teachers: CachedFaculty(teachers, **store))
        assert all(torch.equal(a, b) for a, b in zip(live, stored, strict=True))
    assert flops == 0, "the second time, everything was stored"
