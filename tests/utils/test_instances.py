"""Arguments of a wrong kind, anywhere in the Python interface: one line that names them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edufast import (
    Augment,
    CachedFaculty,
    ClassMap,
    Curriculum,
    EarlyExit,
    Faculty,
    Grade,
    School,
    Student,
    Teacher,
    Training,
    load_dataset,
    predict,
)
from edufast.distill import KD
from edufast.models.zoo import create_model
from edufast.training.settings import SchoolOptions
from edufast.utils.errors import UserError
from edufast.utils.instances import all_of, check_instance
from tests.tiny import TRAINING, tiny_data, tiny_faculty, tiny_model

DATA = tiny_data()
SLICES = [range(0, 3), range(3, 6)]


def test_what_is_of_another_kind_is_described():
    check_instance("x", 1, int, str)
    for value, found in ((None, "None"), (1.5, "of type float"), (KD, "the class KD")):
        with pytest.raises(TypeError, match=f"^x is {found}; expected int or str$"):
            check_instance("x", value, int, str)


def test_each_of_a_sequence_is_looked_at():
    assert all_of("x", (n for n in [1, 2]), int) == (1, 2)
    with pytest.raises(TypeError, match=r"^x\[1\] is of type str; expected int$"):
        all_of("x", [1, "2"], int)
    for value in (1, "ab", None):
        with pytest.raises(TypeError, match=r"^x is .*; expected a sequence, each a int$"):
            all_of("x", value, int)


def school(**changes: object) -> School:
    given = {
        "student": Student(tiny_model(), 2, input_size=(3, 16, 16)),
        "faculty": tiny_faculty(*SLICES),
        "curriculum": Curriculum.graded(SLICES, 2),
        "data": DATA,
        "training": TRAINING,
        **changes,
    }
    return School(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": tiny_model()}, "student is of type Sequential; expected Student"),
        ({"faculty": [tiny_model()]}, "faculty is of type list; expected Faculty"),
        ({"curriculum": [Grade(1, [0])]}, "curriculum is of type list; expected Curriculum"),
        ({"data": "digits"}, "data is of type str; expected DataSet"),
        ({"algorithm": KD}, "algorithm is the class KD; expected str or Algorithm"),
        ({"training": {"lr": 1}}, "training is of type dict; expected Training"),
        ({"options": {"seed": 1}}, "options is of type dict; expected SchoolOptions"),
        ({"student": Student(tiny_model(), 2)}, r"input_size \(3, 32, 32\); expected that of tiny"),
        (
            {"student": Student(tiny_model(5), 2, input_size=(3, 16, 16))},
            "student has 5 classes, the curriculum teaches 6",
        ),
    ],
)
def test_a_school_names_what_does_not_fit_before_a_teacher_is_asked(change, message, monkeypatch):
    monkeypatch.setattr(Faculty, "prepare", lambda *_: pytest.fail("a teacher was asked"))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        school(**change)
    assert "\n" not in str(caught.value)


def test_a_student_goes_to_school_once():
    student = Student(tiny_model(), 2, input_size=(3, 16, 16))
    school(student=student).begin_grade()
    with pytest.raises(ValueError, match=r"^student has 1 fragments already; expected a new"):
        school(student=student)


NET = nn.Linear(2, 2)


def grown(**options: object) -> None:
    Student(tiny_model(), 2, input_size=(3, 16, 16)).grow(fragments=1, classes=2, **options)


WRONG = [
    (lambda: Teacher(None, [0]), "model of teacher is None; expected Module"),
    (lambda: Teacher(NET, "0-3"), "classes of teacher is '0-3'; expected a sequence"),
    (lambda: Teacher(NET, 4), "classes of teacher is 4; expected a sequence of integers"),
    (lambda: Teacher(NET, [0, -1]), "classes of teacher is -1; expected at least 0"),
    (lambda: Teacher(NET, [0, 1.5]), "classes of teacher is 1.5; expected an integer"),
    (lambda: Teacher(NET, [0, 1], mean=0.5), "mean is 0.5; expected 3 finite numbers"),
    (lambda: Teacher(NET, [0, 1], image_size=True), "image_size is True; expected an integer"),
    (lambda: Faculty([NET]), r"teachers\[0\] is of type Linear; expected Teacher"),
    (lambda: Faculty(Teacher(NET, [0, 1])), "teachers is of type Teacher; expected a sequence"),
    (lambda: Faculty([], "gpu"), "device is 'gpu'; expected cpu, cuda or cuda:N"),
    (lambda: Faculty([], dtype="bf16"), "dtype is of type str; expected dtype"),
    (lambda: Grade(1, 3), "classes is 3; expected a sequence of integers"),
    (lambda: Grade(1, [0], 0), "teachers is 0; expected a sequence of integers"),
    (lambda: Grade(1, [0], [0, 0]), r"teachers is \[0, 0\]; expected each once"),
    (lambda: Grade(1, [0], freeze=0.5), "freeze is 0.5; expected a sequence of numbers"),
    (lambda: Grade(1, [0], rehearsal="x"), "rehearsal is 'x'; expected a finite number"),
    (lambda: Curriculum(Grade(1, [0])), "grades is of type Grade; expected a sequence"),
    (lambda: Curriculum.graded([4, 3], 3), r"slices\[0\] is 4; expected a sequence of integers"),
    (lambda: Curriculum.single([0], 3, image_sizes=6), "image_sizes is 6; expected a sequence"),
    (lambda: Augment(flip="no"), "flip is of type str; expected bool"),
    (lambda: Augment(random_resized_crop=0.5), "random_resized_crop is 0.5; expected a sequence"),
    (lambda: Augment(random_resized_crop=(0.5,)), "expected 0 < smallest <= largest <= 1"),
    (lambda: Training(momentum=1.0), "momentum is 1.0; expected a number below 1"),
    (lambda: Training(lr=0), "lr is 0; expected a number above 0"),
    (lambda: Training(augment={"pad": 2}), "augment is of type dict; expected Augment"),
    (lambda: SchoolOptions(seed="0"), "seed is '0'; expected an integer"),
    (lambda: SchoolOptions(event_log="a"), "event_log is of type str; expected EventLog"),
    (lambda: SchoolOptions(checkpoint=5), "checkpoint is of type int; expected str or PathLike"),
    (lambda: Curriculum([Grade(1, [0])], keep_rows="no"), "keep_rows is of type str; expected"),
    (lambda: Curriculum([Grade(1, [0])], keep_state=0), "keep_state is of type int; expected bool"),
    (lambda: Student(tiny_model(), True), "grades is True; expected an integer"),
    (lambda: Student(tiny_model(), 2, head_width=True), "head_width is True; expected an integer"),
    (lambda: grown(keep_state="no"), "keep_state is of type str; expected bool"),
    (lambda: grown(optimizer="sgd"), "optimizer is of type str; expected Optimizer"),
    (lambda: Grade(1, torch.tensor(2)), r"classes is tensor\(2\); expected a sequence of integers"),
    (lambda: Grade(1, [0], freeze=np.array(1)), "freeze is .*; expected a sequence of numbers"),
    (lambda: Grade(1, [0], target=torch.ones(2)), "target is of type Tensor; expected str"),
    (lambda: Curriculum(torch.tensor(2)), "grades is of type Tensor; expected a sequence"),
    (lambda: Curriculum([Grade(1, [0])], np.ones(2)), "order is .*; expected 'mixed' or 'slices'"),
    (lambda: Training(optimizer=np.ones(2)), "optimizer is .*; expected 'sgd' or 'adamw'"),
    (lambda: Training(compile=torch.ones(2)), "compile is .*; expected 'auto' or True or False"),
    (lambda: Student(tiny_model(), 2, input_size=16), "input_size is 16; expected a sequence of i"),
    (lambda: Student(tiny_model(), 2, head=np.ones(2)), "head is .*; expected one of"),
    (lambda: Student(tiny_model(), 2, cuts=True), "cuts=True: expected 1 names for 2 fragments"),
    (lambda: Student(tiny_model(), 2, cuts=[["1"]]), r"cuts: cannot cut after \['1'\]; possible"),
    (lambda: Student(tiny_model(), 2, learned="head"), "learned is of type str; expected a seq"),
    (lambda: Student(tiny_model(), 2, learned=["x"]), "learned has 'x'; expected names of param"),
    (lambda: EarlyExit(tiny_model(), 0.5), "student is of type Sequential; expected Student"),
    (lambda: Faculty([], compile=torch.ones(2)), "compile is of type Tensor; expected bool"),
    (lambda: CachedFaculty([], 5), "folder is of type int; expected str or PathLike"),
    (lambda: ClassMap(5), "slices is 5; expected sequences of class ids"),
    (lambda: ClassMap([0, 1]), r"slices\[0\] is 0; expected a sequence of integers"),
    (lambda: replace(DATA, val=None), "val is None; expected Samples"),
    (lambda: replace(DATA, classes=6), "classes is of type int; expected a sequence, each a str"),
    (lambda: replace(DATA, classes=("a",) * 6), "classes has 'a' 6 times; expected each name once"),
    (lambda: load_dataset("digits", image_size="8"), "image_size is '8'; expected an integer"),
    (lambda: load_dataset("digits", image_size=10**9), "image_size is 1000000000; expected at"),
    (lambda: load_dataset("digits", holdout="0.1"), "holdout is of type str; expected float"),
    (lambda: load_dataset("digits", on_error=None), "on_error is None; expected 'stop' or 'skip'"),
    (lambda: load_dataset("digits", leave_out=3), "leave_out is of type int; expected str or Path"),
    (lambda: load_dataset(None), "source is None; expected str or Path"),
    (lambda: predict(None, "a.png"), "path is None; expected str or PathLike"),
    (lambda: predict("a.onnx", 5), "pictures is of type int; expected a sequence, each a str or P"),
    (lambda: predict("a.onnx", [5]), r"pictures\[0\] is of type int; expected str or PathLike"),
    (lambda: create_model(None, 10), "name is of type NoneType; expected a model's name"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_arguments_are_named_in_one_line(make, message):
    with pytest.raises((TypeError, ValueError, UserError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_holds_integers_is_taken():
    for classes in (range(2), np.arange(2), torch.arange(2), (np.int64(0), 1)):
        assert Teacher(NET, classes, image_size=np.int64(8)).classes == (0, 1)
        assert Grade(1, classes).classes == (0, 1)
