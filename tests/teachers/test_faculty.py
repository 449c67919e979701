import math
from functools import partial

import pytest
import torch
from torch import nn

from edufast.models.zoo import create_model
from edufast.teachers.faculty import Faculty, Teacher
from tests.tiny import Constant, constant_faculty, tiny_faculty

IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_teachers_are_frozen_and_in_eval_mode():
    faculty = constant_faculty([0, 1], [2])
    assert not any(faculty.model(k).training for k in (0, 1))
    assert not any(p.requires_grad for k in (0, 1) for p in faculty.model(k).parameters())
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


def test_bfloat16_teachers_answer_in_float32_and_nearly_the_same():
    model = create_model("resnet8", 5)
    images = torch.randn(4, 3, 16, 16)
    exact = Faculty([Teacher(model, range(5))]).logits(0, images)
    faculty = Faculty([Teacher(model, range(5))], dtype=torch.bfloat16)
    assert {p.dtype for p in faculty.model(0).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    rounded = faculty.logits(0, images)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)
    assert faculty.flops(0, (3, 16, 16)) > 0


def traceable():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 2))


def untraceable():
    return Constant(2)  # it counts the images


@pytest.mark.parametrize("build", [traceable, untraceable])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_happens_to_a_model_afterwards_does_not_reach_the_teacher(build, dtype):
    model = build()
    faculty = Faculty([Teacher(model, [0, 1])], dtype=dtype)
    before = faculty.logits(0, IMAGES)
    model.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(faculty.logits(0, IMAGES), before)


@pytest.mark.parametrize("build", [traceable, untraceable])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_faculty_leaves_the_model_as_it_was(build, dtype):
    model = build()
    faculty = Faculty([Teacher(model, [0, 1])], dtype=dtype)
    assert faculty.logits(0, IMAGES).shape == (6, 2)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_teachers_are_compiled_apart_and_once_a_size(monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    plain = tiny_faculty(*[range(3)] * 3)
    faculty = Faculty(list(plain), compile=True)
    sizes = range(2, 8)  # eighteen graphs: more than Dynamo allows one function
    images = torch.randn(8, 3, 16, 16)
    for _ in range(2):
        for size in sizes:
            for k in range(3):
                expected = plain.logits(k, images[:size])
                torch.testing.assert_close(faculty.logits(k, images[:size]), expected)
    assert len(graphs) == 18
    faculty.logits(0, images, eager=True)
    assert len(graphs) == 18


def test_a_teacher_names_each_class_once():
    with pytest.raises(ValueError, match="at least one, each once"):
        Teacher(Constant(2), [1, 1])


def test_flops_of_a_linear_teacher():
    faculty = constant_faculty([0, 1, 2])
    assert faculty.flops(0, (3, 4, 4)) == 2 * 3
    assert math.isfinite(faculty[0].model.linear.weight.sum())
