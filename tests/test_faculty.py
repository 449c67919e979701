import math

import pytest
import torch
from torch import nn

from edufast.faculty import Faculty, Lesson, Teacher, gated_logits
from edufast.models import create_model
from edufast.ops import ClassSlices


class Constant(nn.Module):
    """Answers every image with logits that depend on its mean, and counts the images."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, classes)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return self.drop(self.linear(images.mean((1, 2, 3))[:, None]))


def faculty_of(*slices):
    torch.manual_seed(0)
    return Faculty([Teacher(Constant(len(s)), s, f"t{k}") for k, s in enumerate(slices)])


IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_teachers_are_frozen_and_in_eval_mode():
    faculty = faculty_of([0, 1], [2])
    assert not any(model.training for model in faculty._models)
    assert not any(p.requires_grad for model in faculty._models for p in model.parameters())
    first, second = (faculty.all_logits(IMAGES, [0, 1]) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_teacher_runs_with_folded_norms_and_stays_as_it_was():
    model = create_model("resnet8", 5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(images)
    faculty = Faculty([Teacher(model, range(5))])
    torch.testing.assert_close(faculty.all_logits(images, [0])[0], expected, rtol=1e-4, atol=1e-5)
    norms = [m for m in faculty._models[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms and model.state_dict().keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_routing_shows_each_image_to_its_owner_only():
    faculty = faculty_of([0, 1], [2, 3, 4])
    owners = torch.tensor([0, 1, 1, 0, -1, 1])
    routed = faculty.routed_logits(IMAGES, owners, [0, 1])
    assert [faculty[k].model.seen for k in (0, 1)] == [2, 3]
    everything = faculty.all_logits(IMAGES, [0, 1])
    for k in (0, 1):
        assert torch.equal(routed[k][owners == k], everything[k][owners == k])
        assert routed[k][owners != k].isnan().all()


def test_slices_follow_the_curriculum_order():
    faculty = faculty_of([4, 5], [0, 2])
    slices = faculty.slices([0, 1], [0, 2, 1, 4, 5])
    assert slices.sizes == (2, 2)
    z = torch.arange(5.0)[None]
    assert slices.select(z, 0).tolist() == [[3, 4]]
    assert slices.select(z, 1).tolist() == [[0, 1]]
    scattered = faculty.slices([1], [2, 1, 0])
    assert scattered.select(torch.tensor([[10.0, 11.0, 12.0]]), 0).tolist() == [[12, 10]]
    with pytest.raises(ValueError, match=r"teacher 0 \(t0\) knows class 4"):
        faculty.slices([0], [0, 1])


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


def test_lesson_counts_visits():
    faculty = faculty_of([0, 1], [2, 3], [0, 1, 2, 3])
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    routed = Lesson(faculty, [0, 1], "routed", range(4), 4.0)
    teaching = routed(IMAGES, labels)
    assert teaching.weighting == "routed" and len(teaching.logits) == 2
    assert routed.visits == [4, 2, 0]
    gated = Lesson(faculty, [0, 1], "gated", range(4), 4.0)
    assert gated(IMAGES, labels).logits[0].shape == (6, 4)
    assert gated.visits == [6, 6, 0]
    assert Lesson(faculty, [], "none", range(4), 4.0)(IMAGES, labels) is None


def test_full_target_restricts_to_the_classes_taught_in_their_order():
    faculty = faculty_of([3, 1, 0, 2])
    teaching = Lesson(faculty, [0], "full", [0, 3], 4.0)(IMAGES, torch.zeros(6, dtype=torch.long))
    everything = faculty.all_logits(IMAGES, [0])[0]
    assert torch.equal(teaching.logits[0], everything[:, [2, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5], "routed", range(4)), "teacher 5 is not in the faculty of 3"),
        (([0, 2], "gated", range(4)), "class 0 belongs to teacher 0 and to teacher 2"),
        (([0], "full", range(4)), "it does not know class 2"),
        (([1], "routed", range(2)), "knows class 2, which is not among the 2 classes taught"),
    ],
)
def test_lessons_that_do_not_fit_say_why(arguments, message):
    faculty = faculty_of([0, 1], [2, 3], [0, 1, 2, 3])
    with pytest.raises(ValueError, match=message):
        Lesson(faculty, *arguments, temperature=4.0)


def test_a_teacher_names_each_class_once():
    with pytest.raises(ValueError, match="at least one, each once"):
        Teacher(Constant(2), [1, 1])


def test_flops_of_a_linear_teacher():
    faculty = faculty_of([0, 1, 2])
    assert faculty.flops(0, (3, 4, 4)) == 2 * 3
    assert math.isfinite(faculty[0].model.linear.weight.sum())
