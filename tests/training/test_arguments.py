"""A checkpoint is of the training that saved it, and of no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edufast.data import Augment
from edufast.distill import create_algorithm
from edufast.student.student import Student
from edufast.training.arguments import check_same, described
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import UserError
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
SLICES = [range(3), range(3, 6)]
CURRICULUM = Curriculum.graded(SLICES, epochs=2)


def school(path: Path, **changes: Any) -> School:
    torch.manual_seed(0)
    given = {"curriculum": CURRICULUM, "data": DATA, "algorithm": "kd", "training": TRAINING}
    given |= {"student": Student(tiny_model(), 2, input_size=(3, 16, 16)), **changes}
    return School(faculty=tiny_faculty(*SLICES), options=SchoolOptions(checkpoint=path), **given)


def another_label() -> Any:
    labels = DATA.train.labels.copy()
    labels[0] = 5
    return replace(DATA, train=replace(DATA.train, labels=labels))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finished") / "c.pt"
    school(path).fit()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": replace(TRAINING, lr=0.5)}, r"training.lr was 0.05 and is 0.5 now"),
        (
            {"training": replace(TRAINING, augment=Augment(pad=2, flip=False))},
            r"training.augment was Augment\(pad=1",
        ),
        (
            {"curriculum": Curriculum.graded(SLICES, epochs=4)},
            r"grades\[1\].epochs was 1 and is 3 now",
        ),
        ({"curriculum": replace(CURRICULUM, order="slices")}, "curriculum.order was mixed and is"),
        ({"algorithm": "reverse_kl"}, "algorithm.divergence was forward_kl and is reverse_kl now"),
        (
            {"algorithm": create_algorithm("kd", alpha=0.9)},
            "algorithm.alpha was 0.3 and is 0.9 now",
        ),
        ({"data": tiny_data(per_class=20)}, "data.train was 144 images .* and is 120 images"),
        ({"data": another_label()}, "data.train was 144 images .* and is 144 images"),
        (
            {"student": Student(tiny_model(), 2, input_size=(3, 16, 16), seed=3)},
            "student.seed was 0 and is 3 now",
        ),
    ],
)
def test_another_training_does_not_go_on_from_it(
    finished: Path, changes: dict[str, Any], message: str
) -> None:
    """It returned the student of the first at once, as if it had learned."""
    with pytest.raises(UserError, match=rf"does not fit this training: {message}") as caught:
        school(finished, **changes).fit()
    assert "to begin again" in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_training_and_another_machine_do(finished: Path) -> None:
    elsewhere = replace(DATA, name="moved", mean=np.nextafter(DATA.mean, 1))
    again = school(finished, data=elsewhere, training=replace(TRAINING, compile=False))
    again.fit()
    with pytest.raises(RuntimeError, match="all 2 grades have been taught; none is current"):
        again.begin_grade()


def test_names_that_only_one_of_them_has_are_told() -> None:
    with pytest.raises(ValueError, match="a was missing and is 1 now"):
        check_same({}, {"a": "1"})
    with pytest.raises(ValueError, match="a was 1 and is missing now"):
        check_same({"a": "1"}, {})


def test_several_numbers_of_an_algorithm_are_arguments() -> None:
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    one, other = (
        described(student, tiny_faculty(*SLICES), CURRICULUM, DATA, algorithm, TRAINING)
        for algorithm in (create_algorithm("dkd"), create_algorithm("dkd", rest_weight=2.0))
    )
    with pytest.raises(ValueError, match=r"algorithm.params was \(1.0, 8.0\) and is \(1.0, 2.0\)"):
        check_same(one, other)


def test_options_of_inner_algorithms_are_arguments() -> None:
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    algorithm = create_algorithm("fitnet", logits={"name": "kd", "alpha": 0.8})
    found = described(student, tiny_faculty(*SLICES), CURRICULUM, DATA, algorithm, TRAINING)
    assert "0.8" in {found[name] for name in found if name.endswith(".alpha")}
    assert "training" not in {name.rpartition(".")[2] for name in found if "algorithm" in name}
