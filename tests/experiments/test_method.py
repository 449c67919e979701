"""What the methods train, and that their budgets are as equal as whole batches allow."""

import pytest

from edufast.distill import KD
from edufast.experiments.method import METHODS, Methods, samples_of_grades, training_flops
from edufast.experiments.recipe import parse_recipe
from edufast.utils.flops import TRAINING_FACTOR
from tests.tiny import tiny_data

DATA = tiny_data()


def methods(names=tuple(METHODS), full=True, **changes):
    slices = ["0-1", "2-3", "4-5", *(["all"] if full else [])]
    content = {
        "name": "r",
        "data": {"source": "digits"},
        "student": {"model": "resnet8"},
        "teachers": [{"model": "resnet8", "classes": classes} for classes in slices],
        "curriculum": {"preset": "default", "epochs": 10, "samples": 100},
        "algorithm": {"name": "kd", "temperature": 2.0, "alpha": 0.6},
        "training": {"batch_size": 16},
    }
    return Methods(parse_recipe(content | changes), DATA, names)


def seen(of, method, samples=None):
    return sum(samples_of_grades(of.curriculum(method, samples), DATA, 16))


# (method, targets of its grades, its teachers in the last grade)
@pytest.mark.parametrize(
    ("method", "targets", "teachers"),
    [
        ("scratch", ["none"], ()),
        ("kd", ["full"], (3,)),
        ("routed", ["routed"], (0, 1, 2)),
        ("alone", ["full"], (3,)),
        ("grades", ["none"] * 3, ()),
        ("education", ["gated", "gated", "full"], (3,)),
    ],
)
def test_who_teaches(method, targets, teachers):
    of = methods()
    grades = of.curriculum(method).grades
    assert [grade.target for grade in grades] == targets
    assert tuple(grades[-1].teachers) == teachers
    student = of.student(method, seed=0)
    assert len(student.fragments) == len(grades)
    assert of.algorithm(method).temperature == 2.0


@pytest.mark.parametrize(
    ("algorithm", "temperature", "alpha"),
    [
        ({"name": "kd", "temperature": 2.0, "alpha": 0.6, "weighting": "entropy"}, 2.0, 0.6),
        ({"name": "js", "alpha": 0.6}, 4.0, 0.6),
        ({"name": "standardised", "temperature": 2.0, "alpha": 0.1}, 4.0, 0.3),
    ],
)
def test_plain_distillation_takes_what_means_the_same(algorithm, temperature, alpha):
    of = methods(algorithm=algorithm)
    plain = of.algorithm("kd")
    assert (type(plain), plain.temperature, plain.alpha) == (KD, temperature, alpha)
    assert plain.divergence == "forward_kl" and plain.weighting == "mean"
    assert type(of.algorithm("alone")) is type(of.algorithm("education"))


def test_a_teacher_of_all_classes_comes_last_where_a_method_needs_one():
    assert [len(s) for s in methods(("scratch", "routed", "education"), full=False).slices] == [
        2
    ] * 3
    of = methods(("alone",), full=False)
    assert [len(s) for s in of.slices] == [2, 2, 2, 6]
    assert of.curriculum("education").grades[-1].target == "gated", "education stays as it was"


# Samples an epoch that batches divide and that they do not; epochs that divide the steps and not.
@pytest.mark.parametrize(("samples", "epochs"), [(96, 9), (100, 10), (None, 7), (80, 13)])
@pytest.mark.parametrize("method", ["scratch", "kd", "grades"])
def test_budgets_are_equal_to_within_two_batches_or_a_hundredth(method, samples, epochs):
    curriculum = {"preset": "default", "epochs": epochs, "samples": samples}
    of = methods(curriculum=curriculum, training={"batch_size": 16})
    education = sum(samples_of_grades(of.education, DATA, 16))
    tolerance = max(32, 0.01 * education)
    assert abs(seen(of, method, of.samples(method, "samples")) - education) <= tolerance

    count = of.samples(method, "flops")
    assert (seen(of, method, count) < education) == (method != "grades")
    flops = [
        training_flops(of.student(name, 0), curriculum, samples_of_grades(curriculum, DATA, 16))
        for name, curriculum in (
            (method, of.curriculum(method, count)),
            ("education", of.education),
        )
    ]
    whole = TRAINING_FACTOR * of.student("scratch", 0).flops(1)
    assert abs(flops[0] - flops[1]) <= tolerance * whole


def test_any_number_of_samples_is_kept_in_shape():
    of = methods()
    for samples in (1, 500, 5000):
        assert abs(seen(of, "scratch", samples) - samples) <= max(32, 0.01 * samples)
    lengths = [g.samples for g in of.curriculum("grades", 3 * seen(of, "education")).grades]
    assert lengths == [288] * 3  # of 96 an epoch
