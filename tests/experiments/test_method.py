"""What the methods of a recipe train, and who teaches."""

import pytest
import torch

from edufast.distill import KD
from edufast.experiments.method import dry_run
from edufast.models.weights import ModelInfo, save_model
from edufast.models.zoo import create_model
from edufast.teachers.faculty import Faculty
from edufast.utils.errors import UserError
from tests.experiments.plans import DATA, methods


# (method, targets of its grades, its teachers in the last grade)
@pytest.mark.parametrize(
    ("method", "targets", "teachers"),
    [
        ("scratch", ["none"], ()),
        ("kd", ["full"], (3,)),
        ("sizes", ["full"] * 3, (3,)),
        ("routed", ["routed"], (0, 1, 2)),
        ("gated", ["gated"], (0, 1, 2)),
        ("joint", ["joint"], (0, 1, 2)),
        ("centred", ["centred"], (0, 1, 2)),
        ("energy", ["energy"], (0, 1, 2)),
        ("alone", ["full"], (3,)),
        ("grades", ["none"] * 3, ()),
        ("education", ["gated", "gated", "full"], (3,)),
    ],
)
def test_who_teaches(method, targets, teachers):
    of = methods()[method]
    grades = of.curriculum.grades
    assert [grade.target for grade in grades] == targets
    assert tuple(grades[-1].teachers) == teachers
    assert of.teachers == sorted({k for grade in grades for k in grade.teachers})
    fragments = 1 if method == "sizes" else len(grades)
    assert len(of.create_student(seed=0).fragments) == fragments
    assert of.recipe.create_algorithm().temperature == 2.0


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
    algorithms = {name: method.recipe.create_algorithm() for name, method in of.items()}
    plain = algorithms["kd"]
    assert (type(plain), plain.temperature, plain.alpha) == (KD, temperature, alpha)
    assert plain.divergence == "forward_kl" and plain.weighting == "mean"
    assert type(algorithms["alone"]) is type(algorithms["education"])


def sizes(of):
    """Classes that each teacher knows."""
    return [len(classes) for classes in of["education"].recipe.teacher_classes(DATA)]


def test_a_teacher_of_all_classes_comes_last_where_a_method_needs_one():
    assert sizes(methods(("scratch", "routed", "education"), full=False)) == [2, 2, 2]
    of = methods(("alone",), full=False)
    assert sizes(of) == [2, 2, 2, 6] and of["alone"].teachers == [3]
    assert of["education"].curriculum.grades[-1].target == "gated", "education stays as it was"


def test_only_what_is_asked_for_is_planned_and_education():
    assert list(methods(("routed", "scratch", "routed"))) == ["routed", "scratch", "education"]
    assert list(methods(())) == ["education"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("kd",), "teachers: none; expected one of all classes"),
        (("routed",), "r: target is 'routed' with teachers"),
        (("joint",), "r: target is 'joint' with teachers"),
    ],
)
def test_a_recipe_without_the_teachers_a_method_needs_is_told(names, message):
    alone = {"grades": [{"epochs": 2, "classes": "0-5"}]}
    with pytest.raises(UserError, match=message):
        methods(names, teachers=[], curriculum=alone)


GRADE = {"grades": [{"epochs": 2, "classes": "0-5"}]}
MEAN, STD = (0.41, 0.42, 0.43), (0.21, 0.22, 0.23)


def test_a_student_starts_from_weights_and_sees_images_as_these_learned_from(tmp_path):
    info = ModelInfo("resnet8", tuple("abc"), (0, 1, 2), "x", 24, MEAN, STD, 0.9, 1)
    trained = create_model("resnet8", 3)
    save_model(tmp_path / "w.safetensors", trained, info)
    weights = {"model": "resnet8", "weights": str(tmp_path / "w.safetensors")}
    of, lines = methods(("scratch",), student=weights)["scratch"], []
    school = of.create_school(0, Faculty([]), device="cpu", say=lines.append)
    assert torch.equal(school.student.model.conv1.weight, trained.conv1.weight)
    assert len(school.student.learned) == len(list(trained.parameters())) - 2
    assert (school.data.mean, school.data.std, school.data.image_size) == (MEAN, STD, 16)
    (line,) = lines
    assert line.startswith("resnet8 starts from ") and "3 classes is replaced by one of 6" in line
    with torch.device("meta"):
        assert of.training_flops() > 0  # which needs no weights


def test_weights_that_cannot_be_had_are_told_before_anything_is_trained(tmp_path):
    of = methods(("scratch",), student={"model": "resnet8", "weights": "pretrained"})
    with pytest.raises(UserError, match="student: weights: there are none published of 'resnet8'"):
        dry_run(of, ["scratch"], "cpu")
    broken = tmp_path / "w.pth"
    broken.write_bytes(b"nothing")
    teacher = {"model": "resnet8", "weights": str(broken), "epochs": 1}
    of = methods(("kd",), teachers=[teacher], curriculum=GRADE)
    with pytest.raises(UserError, match=r"teachers.0: .*w.pth is not a file of tensors"):
        dry_run(of, ["kd"], "cpu")


def test_what_a_baseline_cannot_do_is_told_with_its_name():
    grade = {"grades": [{"epochs": 1, "teachers": [3], "target": "full"}]}
    of = methods(("education", "routed"), curriculum=grade, training={"mix": "mixup"})
    dry_run(of, ["education"], "cpu")
    with pytest.raises(UserError, match="method routed: mix is 'mixup', but the target of grade 1"):
        dry_run(of, ["education", "routed"], "cpu")
