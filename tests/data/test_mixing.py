"""Labels that are smoothed or mixed with their images, and what does not go with them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import edufast.training.school as school_module
import edufast.training.step as step_module
from edufast.data import Batch
from edufast.data.mixing import mixed, smoothed
from edufast.distill import KD, Algorithm, create_algorithm
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import Interrupted
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
TARGETS = torch.arange(5)
COLOURS = torch.arange(1.0, 6.0)
FULL = Curriculum([Grade(1, range(6), [0], 1, "full"), Grade(2, (), [0], 3, "full", freeze=(0.5,))])


def batch() -> Batch:
    """Every image has one colour, which tells whose it is, and a class of its own."""
    images = COLOURS[:, None, None, None].expand(5, 3, 16, 16).clone()
    return Batch(images.to(memory_format=torch.channels_last), TARGETS, torch.arange(5))


def at(iteration: int, kind: str, **changes: Any) -> tuple[Tensor, Tensor]:
    where = {"seed": 3, "epoch": 1, "iteration": iteration, **changes}
    found, labels = mixed(kind, batch(), TARGETS, 5, **where)
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    return found.images, labels


def test_cutmix_takes_a_rectangle_of_another_image_and_its_share_of_the_label():
    largest = []
    for iteration in range(30):
        images, labels = at(iteration, "cutmix")
        assert torch.equal(images[:, 0], images[:, 2])
        shares = (images[:, 0, ..., None] == COLOURS).double().mean((1, 2))
        torch.testing.assert_close(labels.double(), shares)
        for image, colour in zip(images[:, 0], COLOURS, strict=True):
            other = image != colour
            assert other.sum() == other.any(0).sum() * other.any(1).sum()  # a rectangle
        largest.append(float(labels.max()))
    assert min(largest) < 0.7 and len(set(largest)) > 10


def test_mixup_blends_two_images_and_their_labels_alike():
    shares = []
    for iteration in range(30):
        images, labels = at(iteration, "mixup")
        colours = (labels @ COLOURS)[:, None, None, None].expand(images.shape)
        torch.testing.assert_close(images, colours)
        torch.testing.assert_close(labels.sum(1), torch.ones(5))
        assert ((labels > 0).sum(1) <= 2).all()
        shares.append(float(labels[0, 0]))
    assert min(shares) < 0.3 and max(shares) > 0.7 and len(set(shares)) > 10


def test_images_of_one_class_have_it_whole():
    same = torch.zeros(5, dtype=torch.int64)
    for kind in ("mixup", "cutmix"):
        _, labels = mixed(kind, batch(), same, 3, seed=0, epoch=0, iteration=0)
        torch.testing.assert_close(labels, F.one_hot(same, 3).float())


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_what_is_drawn_depends_on_seed_epoch_and_iteration_alone(kind):
    first, labels = at(0, kind)
    again, same = at(0, kind)
    assert torch.equal(first, again) and torch.equal(labels, same)
    for change in ({"seed": 4}, {"epoch": 2}, {"iteration": 1}):
        other, _ = at(**{"iteration": 0, "kind": kind, **change})
        assert not torch.equal(first, other)
    assert torch.equal(batch().images[0], torch.ones(3, 16, 16))  # a copy was mixed


def school(
    mix: str = "none",
    curriculum: Curriculum = FULL,
    algorithm: Algorithm | None = None,
    faculty: Faculty | None = None,
    **changes: Any,
) -> School:
    torch.manual_seed(3)
    model = tiny_model()
    model[2][2].p = 0.0  # compiled code draws other random numbers
    return School(
        Student(model, curriculum.fragments[-1], input_size=(3, 16, 16)),
        tiny_faculty(range(6)) if faculty is None else faculty,
        curriculum,
        DATA,
        algorithm=algorithm or KD(alpha=0.3),
        training=replace(TRAINING, mix=mix, **changes.pop("training", {})),
        options=SchoolOptions(**changes),
    )


def first_batch(taught: School) -> Batch:
    taught.begin_grade()
    taught.begin_epoch()
    return next(taught.loader.epoch(0))


def test_the_loss_of_a_step_is_that_of_mixed_images_with_the_teachers_answers_to_them():
    taught = school("cutmix")
    given = first_batch(taught)
    where = {"seed": 0, "epoch": 0, "iteration": 0}
    expected, labels = mixed("cutmix", given, given.labels, 6, **where)
    logits = taught.student(expected.images)
    teacher = taught.faculty.logits(0, expected.images)
    hard = F.cross_entropy(logits, labels)
    log_p, q = (logits / 4).log_softmax(1), (teacher / 4).softmax(1)
    soft = 16 * F.kl_div(log_p, q, reduction="batchmean")
    torch.testing.assert_close(taught.train_step(given), (0.3 * hard + 0.7 * soft).detach())


def test_smoothed_labels_are_those_of_torch():
    logits = torch.randn(5, 6)
    expected = F.cross_entropy(logits, TARGETS, label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, smoothed(TARGETS, 6, 0.2)), expected)
    mixtures = torch.rand(5, 6).softmax(1)
    expected = F.cross_entropy(logits, mixtures, label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, smoothed(mixtures, 6, 0.2)), expected)


@pytest.mark.parametrize("target", ["full", "gated"])
def test_the_loss_of_a_step_smooths_its_cross_entropy_over_the_classes_taught(target):
    teachers = [0] if target == "full" else [0, 1]
    faculty = tiny_faculty(range(6)) if target == "full" else tiny_faculty(range(2), range(2, 4))
    curriculum = Curriculum([Grade(1, range(4), teachers, target=target), Grade(1, range(4, 6))])
    taught = school("none", curriculum, KD(alpha=1.0), faculty, training={"label_smoothing": 0.2})
    given = first_batch(taught)
    logits = taught.student(given.images)
    assert logits.shape[1] == 4
    expected = F.cross_entropy(logits, given.labels, label_smoothing=0.2)
    torch.testing.assert_close(taught.train_step(given), expected.detach())


def test_mixed_labels_are_smoothed_as_well():
    setting = {"label_smoothing": 0.2}
    taught = school("mixup", Curriculum.single(range(6), 1), None, Faculty([]), training=setting)
    given = first_batch(taught)
    images, labels = mixed("mixup", given, given.labels, 6, seed=0, epoch=0, iteration=0)
    expected = F.cross_entropy(taught.student(images.images), labels, label_smoothing=0.2)
    torch.testing.assert_close(taught.train_step(given), expected.detach())


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_without_teachers_it_learns_the_task_still(mix):
    taught = school(mix, Curriculum.single(range(6), 16), faculty=Faculty([]))
    taught.fit()
    assert taught.progress.accuracy > 0.8


@pytest.mark.parametrize("name", ["kd", "reverse_kl", "js", "dist", "fitnet", "at"])
@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_algorithms_that_take_soft_labels_train(name, mix):
    algorithm = create_algorithm(name)
    assert algorithm.takes_soft_labels
    taught = school(mix, algorithm=algorithm)
    assert taught.train_step(first_batch(taught)).isfinite()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dkd", {}),
        ("mse", {}),
        ("crd", {}),
        ("standardised", {}),
        ("kd", {"weighting": "confidence"}),
        ("kd", {"divergence": "dkd"}),
        ("dist", {"weighting": "confidence"}),
        ("kd", {"weighting": lambda *_: torch.ones(1)}),
        ("fitnet", {"logits": KD(weighting="confidence")}),
    ],
)
def test_algorithms_that_need_the_class_are_refused(name, options):
    message = "mix is 'mixup', but .*, as it is set, needs the class of each sample; expected kd"
    with pytest.raises(ValueError, match=message):
        school("mixup", algorithm=create_algorithm(name, **options))
    message = message.replace("mix is 'mixup'", "label_smoothing is 0.1")
    with pytest.raises(ValueError, match=message):
        algorithm = create_algorithm(name, **options)
        school(algorithm=algorithm, training={"label_smoothing": 0.1})
    # Where nobody is asked, no algorithm is.
    school("mixup", Curriculum.single(range(6), 1), create_algorithm(name, **options), Faculty([]))


@pytest.mark.parametrize("target", ["routed", "gated", "joint"])
def test_targets_that_ask_whose_class_it_is_are_refused(target):
    curriculum = Curriculum([Grade(1, range(3)), Grade(1, range(3, 6), [0], target=target)])
    message = f"mix is 'cutmix', but the target of grade 2 is '{target}'.*'full' or 'none'"
    with pytest.raises(ValueError, match=message):
        school("cutmix", curriculum)


def test_labels_are_not_smoothed_where_each_sample_has_its_teacher():
    curriculum = Curriculum([Grade(1, range(6), [0], target="routed")])
    message = "label_smoothing is 0.1, but the target of grade 1 is 'routed'.*label_smoothing 0"
    with pytest.raises(ValueError, match=message):
        school("none", curriculum, training={"label_smoothing": 0.1})


def test_stored_logits_are_refused(tmp_path):
    faculty = CachedFaculty(list(tiny_faculty(range(6))), tmp_path)
    with pytest.raises(ValueError, match="but stored logits are of whole images; expected no ca"):
        school("mixup", faculty=faculty)


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    expected = school("cutmix").fit().state_dict()
    steps, step = [], School.train_step
    monkeypatch.setattr(School, "train_step", lambda *a: steps.append(0) or step(*a))

    @contextmanager
    def interrupted():
        yield lambda: len(steps) == 13

    monkeypatch.setattr(school_module, "deferred_interrupt", interrupted)
    with pytest.raises(Interrupted):
        school("cutmix", checkpoint=tmp_path / "c.pt").fit()
    torch.manual_seed(12345)
    graduate = school("cutmix", checkpoint=tmp_path / "c.pt").fit().state_dict()
    assert all(torch.equal(graduate[name], value) for name, value in expected.items())


def test_a_compiled_training_is_the_same(monkeypatch):
    monkeypatch.setattr(step_module, "BACKEND", "aot_eager")
    eager, compiled = (school("mixup", training={"compile": c}) for c in (False, True))
    expected, graduate = eager.fit(), compiled.fit()
    assert compiled.step.compiled and compiled.step.compiles == 2  # a fragment freezes
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(graduate.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
