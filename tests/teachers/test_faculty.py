import math
from functools import partial

import pytest
import torch
from torch import nn

from edufast.distill import create_algorithm
from edufast.models.zoo import create_model
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.tiny import (
    TRAINING,
    Constant,
    Viewing,
    constant_faculty,
    tiny_data,
    tiny_faculty,
    tiny_model,
)

IMAGES = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def test_teachers_are_frozen_and_in_eval_mode():
    faculty = constant_faculty([0, 1], [2])
    assert not any(faculty.model(k).training for k in (0, 1))
    assert not any(p.requires_grad for k in (0, 1) for p in faculty.model(k).parameters())
    first, second = (faculty.logits(0, IMAGES) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad


@pytest.mark.parametrize("base", [nn.Sequential, nn.Module], ids=["traceable", "not traceable"])
def test_a_teacher_whose_train_returns_nothing_is_taken(base):
    class Forgetful(base):
        def train(self, mode=True):
            super().train(mode)

        def forward(self, images):
            return self.inner(images) if isinstance(images, torch.Tensor) else None

    model = Forgetful()
    model.inner = tiny_model(3)
    faculty = Faculty([Teacher(model, range(3))])
    images = torch.randn(2, 3, 16, 16)
    assert not faculty.model(0).training
    assert torch.equal(faculty.logits(0, images), faculty.logits(0, images))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_teacher_that_needs_contiguous_images_gets_them(layout):
    model = Viewing(3)
    faculty = Faculty([Teacher(model, range(3))])
    assert faculty.flops(0, (3, 16, 16)) > 0
    images = torch.randn(2, 3, 16, 16)
    found = faculty.logits(0, images.to(memory_format=layout))
    torch.testing.assert_close(found, model(images).detach())


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


class Gives(nn.Module):
    """Wraps a model's logits."""

    def __init__(self, model, wrap):
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, images):
        return self.wrap(self.model(images))


@pytest.mark.parametrize(
    ("wrap", "found"),
    [
        (lambda z: z[:, :2], r"logits \(1, 2\); expected \(1, 3\), one for each of its 3 classes"),
        (lambda z: z.repeat(1, 2), r"logits \(1, 6\); expected \(1, 3\)"),
        (lambda z: z[0], r"logits \(3,\); expected \(1, 3\)"),
        (lambda z: z[:, :, None], r"logits \(1, 3, 1\); expected \(1, 3\)"),
        (lambda z: (z, z), r"a tuple; expected logits, a tensor \(1, 3\)"),
        (lambda z: {"logits": z}, "a dict; expected logits"),
        (lambda z: None, "a NoneType; expected logits"),
        (lambda z: z.to_sparse(), r"logits that are torch.float32, torch.sparse_coo on cpu; "),
        (lambda z: torch.nested.nested_tensor(list(z)), "logits that are nested on cpu; expected"),
        (lambda z: z.to("meta"), r"logits that are torch.float32, torch.strided on meta; "),
        (
            lambda z: z.to(torch.cfloat),
            "logits that are torch.complex64, .*; expected real numbers",
        ),
    ],
)
@pytest.mark.parametrize("target", ["full", "routed", "gated"])
def test_a_school_refuses_a_teacher_whose_logits_are_not_its_classes(wrap, found, target):
    right = Teacher(tiny_model(3), range(3))
    wrong = Teacher(Gives(tiny_model(3), wrap), range(3, 6), "the wrong one")
    if target == "full":
        wrong.classes, classes = range(3), range(3)
    else:
        classes = range(6)
    teachers = [1] if target == "full" else [0, 1]
    curriculum = Curriculum.single(classes, 1, teachers=teachers, target=target)
    student = Student(tiny_model(len(classes)), 1, input_size=(3, 16, 16))
    with pytest.raises(UserError, match=r"teacher 1 \(the wrong one\) gives " + found):
        School(student, Faculty([right, wrong]), curriculum, tiny_data(), training=TRAINING)


def test_a_teacher_that_does_not_take_the_images_is_named():
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(784, 3))
    faculty = Faculty([Teacher(grey, range(3), "grey")])
    with pytest.raises(
        UserError, match=r"^teacher 0 \(grey\) fails on images \(1, 3, 16, 16\): .*$"
    ):
        faculty.prepare(tiny_data(), TRAINING.augment)


def test_a_teacher_that_takes_one_number_of_images_only_is_named():
    fixed = nn.Sequential(nn.Flatten(), nn.Unflatten(0, (1, 1)), nn.Flatten(), nn.Linear(768, 3))
    faculty = Faculty([Teacher(fixed, range(3), "fixed")])
    with pytest.raises(
        UserError, match=r"^teacher 0 \(fixed\) fails on images \(16, 3, 16, 16\): .*$"
    ):
        faculty.prepare(tiny_data(), TRAINING.augment)


def test_a_loop_of_ones_own_is_told_as_well():
    faculty = Faculty([Teacher(Constant(3), [0, 1], "bob")])
    with pytest.raises(
        UserError, match=r"teacher 0 \(bob\) gives logits \(6, 3\); expected \(6, 2\)"
    ):
        faculty.logits(0, IMAGES)


def test_a_cache_does_not_take_logits_that_are_not_the_classes(tmp_path):
    faculty = CachedFaculty([Teacher(tiny_model(4), range(3))], tmp_path / "cache")
    with pytest.raises(UserError, match=r"gives logits \(1, 4\); expected \(1, 3\)"):
        faculty.prepare(tiny_data(), TRAINING.augment)
    assert not (tmp_path / "cache").exists()


def test_hugging_face_models_are_teachers_as_they_are():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    images = torch.randn(2, 3, 16, 16)
    for dtype in (None, torch.bfloat16):
        faculty = Faculty([Teacher(model, range(3))], dtype=dtype)
        with torch.no_grad():
            expected = model(images).logits
        torch.testing.assert_close(faculty.logits(0, images), expected, rtol=0.05, atol=0.05)
        assert faculty.flops(0, (3, 16, 16)) > 0
    curriculum = Curriculum.single(range(3), 1, teachers=[0], target="full")
    student = Student(tiny_model(3), 1, input_size=(3, 16, 16))
    fitnet = create_algorithm("fitnet")
    school = School(student, faculty, curriculum, tiny_data(), algorithm=fitnet, training=TRAINING)
    assert school.fit()(images).shape == (2, 3)


def test_flops_of_a_linear_teacher():
    faculty = constant_faculty([0, 1, 2])
    assert faculty.flops(0, (3, 4, 4)) == 2 * 3
    assert math.isfinite(faculty[0].model.linear.weight.sum())


class Remembering(nn.Module):
    """Keeps what cannot be copied: a tensor of its last call's graph."""

    def __init__(self, classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(classes))
        self.last = self.scale * 2

    def forward(self, images):
        if torch.is_grad_enabled():  # which torch.fx cannot trace
            self.last = images.mean((1, 2, 3)).unsqueeze(1) * self.scale
        return images.flatten(1)[:, : len(self.scale)] * self.scale


def test_a_teacher_that_cannot_be_copied_is_named():
    teacher = Teacher(Remembering(4), range(4), "graph")
    with pytest.raises(UserError, match=r"^teacher 0 \(graph\) cannot be copied: "):
        Faculty([teacher])


def test_a_teacher_whose_weights_are_on_meta_is_named(tmp_path):
    teacher = Teacher(tiny_model(4).to("meta"), range(4), "empty")
    for make in (Faculty, lambda teachers: CachedFaculty(teachers, tmp_path)):
        with pytest.raises(UserError, match=r"^teacher 0 \(empty\) cannot be moved to cpu: "):
            make([teacher])


def test_a_teacher_without_parameters_costs_what_it_computes():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(48, 4))

        def forward(self, images):
            return images.flatten(1) @ self.weight

    assert Faculty([Teacher(Fixed(), range(4))]).flops(0, (3, 4, 4)) == 2 * 48 * 4


def test_a_teacher_of_probabilities_is_told_once():
    data = tiny_data()
    model = nn.Sequential(tiny_model(len(data.classes)), nn.Softmax(1))
    with pytest.warns(UserWarning, match=r"teacher 0 \(soft\) gives probabilities; expected logit"):
        Faculty([Teacher(model, range(len(data.classes)), "soft")]).prepare(data, TRAINING.augment)


class _Normalises(nn.Module):
    """As models do that are given raw images: in place, or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place, self.layer = in_place, nn.Linear(48, 4)

    def forward(self, images):
        images = images.sub_(0.5) if self.in_place else images - 0.5
        return self.layer(images.flatten(1))


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.inference_mode])
def test_a_teacher_that_writes_into_its_images_leaves_those_of_the_others(outside):
    models = [_Normalises(True), _Normalises(False)]
    models[1].load_state_dict(models[0].state_dict())
    faculty = Faculty([Teacher(model, range(4)) for model in models])
    with outside():
        images = IMAGES.clone()
        for _ in range(3):
            assert torch.equal(faculty.logits(0, images), faculty.logits(1, images))
            assert torch.equal(images, IMAGES)


def test_only_what_writes_into_its_images_is_given_a_copy():
    class Same(nn.Module):
        def forward(self, images):
            assert len(images)  # which torch.fx does not trace
            seen.append(images)
            return images.flatten(1)[:, :4]

    seen = []
    faculty = Faculty([Teacher(Same(), range(4))])
    for _ in range(3):
        faculty.logits(0, IMAGES)
    tried, *given = seen  # a black image tells which layout it runs in
    assert len(tried) == 1 and [images is IMAGES for images in given] == [False, True, True]


def test_a_teacher_may_run_in_inference_mode_or_ask_for_gradients():
    """Features of the former were refused by autograd, which blamed the algorithm."""

    class Itself(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny_model(3)

        @torch.inference_mode()
        def forward(self, images):
            return self.inner(images)

    faculty = Faculty([Teacher(Itself(), range(3))])
    assert not faculty.logits(0, torch.randn(2, 3, 16, 16)).is_inference()
    wanting = Faculty([Teacher(Gives(tiny_model(3), nn.Parameter), range(3))])
    assert not wanting.logits(0, torch.randn(2, 3, 16, 16)).requires_grad
    for name in ("kd", "fitnet", "crd"):
        options = {"crd": {"negatives": 10, "width": 8}}.get(name, {})
        student = Student(tiny_model(3), 1, input_size=(3, 16, 16))
        curriculum = Curriculum.single(range(3), 1, teachers=[0], target="full")
        algorithm = create_algorithm(name, **options)
        data = tiny_data(classes=3)
        School(student, faculty, curriculum, data, training=TRAINING, algorithm=algorithm).fit()
        faculty = Faculty([Teacher(Itself(), range(3))])
