from __future__ import annotations

import pytest
import torch

from edufast.data import Batch
from edufast.data.class_map import ClassMap
from edufast.distill import KD
from edufast.ops import ClassSlices
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty, Teacher
from edufast.teachers.supervision import Supervision, gated_logits
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from tests.tiny import TRAINING, constant_faculty, tiny_data, tiny_faculty, tiny_model

IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def batch_of(labels, parts=()):
    return Batch(IMAGES, labels, torch.arange(len(labels)), None, parts)


def test_gated_target_is_the_mixture_it_claims_to_be():
    torch.manual_seed(0)
    logits = [torch.randn(4, 2), torch.randn(4, 3)]
    slices = ClassSlices.of([(0, 2), [4, 2, 3]], 5)
    labels = torch.tensor([0, 1, 2, 4])
    target = gated_logits(logits, slices, labels, num_classes=5, temperature=3.0, leak=0.2)
    probabilities = torch.softmax(target / 3.0, 1)
    expected = torch.zeros(4, 5)
    gate = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.2, 0.8]])
    expected[:, :2] = gate[:, :1] * torch.softmax(logits[0] / 3, 1)
    expected[:, [4, 2, 3]] = gate[:, 1:] * torch.softmax(logits[1] / 3, 1)
    torch.testing.assert_close(probabilities, expected)


def test_gated_target_of_a_label_nobody_owns_and_of_a_lone_teacher():
    slices = ClassSlices.of([(0, 2), (2, 4)], 5)
    logits = [torch.zeros(1, 2), torch.zeros(1, 2)]
    both = gated_logits(logits, slices, torch.tensor([4]), num_classes=5, temperature=1.0)
    torch.testing.assert_close(torch.softmax(both, 1), torch.tensor([[0.25] * 4 + [0.0]]))
    lone = gated_logits(
        logits[:1], ClassSlices.of([(0, 2)], 2), torch.tensor([1]), num_classes=2, temperature=1.0
    )
    torch.testing.assert_close(torch.softmax(lone, 1), torch.tensor([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="leak is 1"):
        gated_logits(logits, slices, torch.tensor([4]), num_classes=5, temperature=1.0, leak=1.0)


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


@pytest.mark.parametrize("target", ["routed", "gated", "full"])
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


@pytest.mark.parametrize("target", ["routed", "gated"])
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
        (([1], "routed", range(2)), "knows class 2, which is not among the 2 classes taught"),
    ],
)
def test_supervisions_that_do_not_fit_say_why(arguments, message):
    faculty = constant_faculty([0, 1], [2, 3], [0, 1, 2, 3])
    with pytest.raises(ValueError, match=message):
        teachers, target, taught = arguments
        Supervision(faculty, teachers, target, ClassMap.of(taught), 4.0)
