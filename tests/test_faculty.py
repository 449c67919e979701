import math

import pytest
import torch
from torch import nn

from edufast.faculty import Faculty, Teacher
from edufast.models import create_model
from tests.tiny import Constant, constant_faculty

IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_teachers_are_frozen_and_in_eval_mode():
    faculty = constant_faculty([0, 1], [2])
    assert not any(model.training for model in faculty._models)
    assert not any(p.requires_grad for model in faculty._models for p in model.parameters())
    first, second = (faculty.logits(0, IMAGES) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad


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
    torch.testing.assert_close(faculty.logits(0, images), expected, rtol=1e-4, atol=1e-5)
    norms = [m for m in faculty.model(0).modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms and model.state_dict().keys() == state.keys()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_slices_follow_the_curriculum_order():
    faculty = constant_faculty([4, 5], [0, 2])
    slices = faculty.slices([0, 1], [0, 2, 1, 4, 5])
    assert slices.sizes == (2, 2)
    z = torch.arange(5.0)[None]
    assert slices.select(z, 0).tolist() == [[3, 4]]
    assert slices.select(z, 1).tolist() == [[0, 1]]
    scattered = faculty.slices([1], [2, 1, 0])
    assert scattered.select(torch.tensor([[10.0, 11.0, 12.0]]), 0).tolist() == [[12, 10]]
    with pytest.raises(ValueError, match=r"teacher 0 \(t0\) knows class 4"):
        faculty.slices([0], [0, 1])


def test_a_teacher_names_each_class_once():
    with pytest.raises(ValueError, match="at least one, each once"):
        Teacher(Constant(2), [1, 1])


def test_flops_of_a_linear_teacher():
    faculty = constant_faculty([0, 1, 2])
    assert faculty.flops(0, (3, 4, 4)) == 2 * 3
    assert math.isfinite(faculty[0].model.linear.weight.sum())
