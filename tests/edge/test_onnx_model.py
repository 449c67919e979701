"""Programs that were exported elsewhere, as teachers: .onnx files and torch.export's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edufast.edge.onnx_model import OnnxModel
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.edge.linear_onnx import write_linear
from tests.tiny import TRAINING, tiny_data, tiny_model

SIZE, CLASSES = 3 * 16 * 16, 6


@pytest.fixture(scope="module")
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE, CLASSES))


@pytest.fixture(scope="module")
def path(linear, tmp_path_factory):
    return write_linear(tmp_path_factory.mktemp("onnx") / "linear.onnx", linear)


def taught(faculty):
    torch.manual_seed(1)
    student = Student(tiny_model(), 1, input_size=(3, 16, 16), seed=1)
    curriculum = Curriculum.single(range(CLASSES), 1, teachers=[0], target="full", samples=32)
    return School(student, faculty, curriculum, tiny_data(), training=TRAINING).fit()


@pytest.mark.filterwarnings("ignore:teacher 0.*hardly more than chance")
@pytest.mark.parametrize("stored", [False, True])
def test_a_file_teaches_what_its_module_does(linear, path, tmp_path, stored):
    def faculty(model, folder):
        teachers = [Teacher(model, range(CLASSES))]
        return CachedFaculty(teachers, tmp_path / folder) if stored else Faculty(teachers)

    by_module, by_file = taught(faculty(linear, "a")), taught(faculty(OnnxModel(path), "b"))
    for a, b in zip(by_module.parameters(), by_file.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_copies_compute_alike_in_any_precision_and_know_their_file(path):
    teacher, images = Teacher(OnnxModel(path), range(CLASSES)), torch.randn(4, 3, 16, 16)
    expected = teacher.model(images)
    assert teacher.has_weights and torch.equal(Faculty([teacher]).logits(0, images), expected)
    rounded = Faculty([teacher], dtype=torch.bfloat16).logits(0, images)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.05)
    before = teacher.fingerprint
    teacher.model.content[-1] += 1
    assert teacher.fingerprint != before


def test_other_files_are_refused_in_one_line(linear, path, tmp_path, capfd):
    other = write_linear(tmp_path / "bytes.onnx", linear, "UINT8")
    with pytest.raises(UserError, match=r"takes tensor\(uint8\) .*; expected float32 images"):
        OnnxModel(other)
    other.write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(UserError, match=r"bytes.onnx cannot be loaded; expected an .onnx file: "):
        OnnxModel(other)
    other.write_bytes(path.read_bytes().replace(b"Gemm", b"Gem\xe4"))
    with pytest.raises(UserError, match=r"bytes.onnx cannot be loaded; expected an .onnx file: "):
        OnnxModel(other)
    assert capfd.readouterr().out == ""  # of onnxruntime
    other = write_linear(tmp_path / "names.onnx", linear, shape=("name", 3, 16, 16))
    other.write_bytes(other.read_bytes().replace(b"name", b"nam\xe4"))
    with pytest.raises(UserError, match=r"names.onnx takes inputs that cannot be read: .*utf-8"):
        OnnxModel(other)
    with pytest.raises(UserError, match=r"no model at .*; expected an .onnx file"):
        OnnxModel(tmp_path / "none.onnx")


def test_images_that_a_file_does_not_take_are_refused_in_one_line(path):
    with pytest.raises(UserError, match=r"linear.onnx cannot take images \(2, 3, 8, 8\): ") as told:
        OnnxModel(path)(torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(told.value)


def test_a_program_of_torch_export_is_a_module_already():
    model, images = tiny_model().eval(), torch.randn(4, 3, 16, 16)
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    program = torch.export.export(model, (images,), dynamic_shapes=shapes)
    faculty = Faculty([Teacher(program.module(), range(CLASSES))])
    torch.testing.assert_close(faculty.logits(0, images[:3]), model(images[:3]))
