"""Budgets are as equal as whole batches allow."""

import itertools

import pytest

import edufast.experiments.budget as budget_module
from edufast.experiments.budget import equal_flops, equal_samples, equal_time, measure_pace
from edufast.training.evaluation import Accuracy
from edufast.training.school import School
from edufast.utils.flops import TRAINING_FACTOR
from tests.experiments.plans import methods
from tests.tiny import tiny_faculty


# Samples an epoch that batches divide and that they do not; epochs that divide the steps and not.
@pytest.mark.parametrize(("samples", "epochs"), [(96, 9), (100, 10), (None, 7), (80, 13)])
@pytest.mark.parametrize("method", ["scratch", "kd", "grades"])
def test_budgets_are_equal_to_within_two_batches_or_a_hundredth(method, samples, epochs):
    curriculum = {"preset": "default", "epochs": epochs, "samples": samples}
    of = methods(curriculum=curriculum, training={"batch_size": 16})
    planned, education = of[method], of["education"]
    total = sum(education.samples)
    tolerance = max(32, 0.01 * total)
    equal = planned.with_samples(equal_samples(planned, education).samples)
    assert abs(sum(equal.samples) - total) <= tolerance

    equal = planned.with_samples(equal_flops(planned, education).samples)
    assert (sum(equal.samples) < total) == (method != "grades")
    whole = TRAINING_FACTOR * of["scratch"].create_student(0).flops(1)
    assert abs(equal.training_flops() - education.training_flops()) <= tolerance * whole


def test_any_number_of_samples_is_kept_in_shape():
    of = methods()
    for samples in (1, 500, 5000):
        found = sum(of["scratch"].with_samples(samples).samples)
        assert abs(found - samples) <= max(32, 0.01 * samples)
    tripled = of["grades"].with_samples(3 * sum(of["education"].samples))
    assert [grade.samples for grade in tripled.curriculum.grades] == [288] * 3  # of 96 an epoch
    assert of["education"].with_samples(7) == of["education"]


def test_equal_time_is_the_seconds_at_the_pace_that_was_measured():
    of = methods(("grades",))
    budget = equal_time(of["grades"], 10.0, tiny_faculty(), device="cpu", seed=3)
    assert budget.seconds == 10.0 and budget.images_per_second > 0
    assert budget.samples == round(10.0 * budget.images_per_second)


def test_a_pace_is_measured_however_soon_patience_ends(monkeypatch):
    accuracies = itertools.count(0, -1)  # the first is the best

    def validate(self):
        self.progress.accuracy = next(accuracies)
        return Accuracy(self.progress.accuracy, (), ())

    monkeypatch.setattr(School, "validate", validate)
    monkeypatch.setattr(budget_module, "PACE_STEPS", 1)
    training = {"batch_size": 16, "patience": 1}
    curriculum = {"preset": "default", "epochs": 6, "image_sizes": [8, 12]}
    of = methods(("sizes",), training=training, curriculum=curriculum)
    assert measure_pace(of["sizes"], tiny_faculty(*[range(6)] * 4), device="cpu", seed=0) > 0
