from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from edufast.data.class_map import ClassMap
from edufast.models.heads import ReferenceHead
from edufast.models.zoo import ResNet, create_model
from edufast.student.student import Student
from tests.student_cases import CLASSES, STAGES, finished, images, student, train
from tests.tiny import tiny_model

# Growing


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper"])
def test_each_stage_has_the_logits_asked_for(head: str) -> None:
    model = student(head=head)
    for fragments, classes in STAGES:
        model.grow(fragments=fragments, classes=classes)
        assert model(images()).shape == (4, classes)
        assert (model.head is None) == (fragments == 3)


@pytest.mark.parametrize("keep_rows", [False, True])
def test_what_existed_computes_what_it_computed(keep_rows: bool) -> None:
    model = student()
    x = images()
    for fragments, classes in STAGES:
        model.eval()
        before, logits = x, model(x) if model.grown else None
        grown, width = model.grown, model.classes
        for fragment in model.fragments[:grown]:
            before = fragment(model.model, before)
        model.grow(fragments=fragments, classes=classes, keep_rows=keep_rows)
        after = x
        for fragment in model.fragments[:grown]:
            after = fragment(model.model, after)
        assert torch.equal(before, after)
        if fragments == grown:  # the closing layers stayed too
            torch.testing.assert_close(model(x)[:, :width], logits, rtol=1e-6, atol=1e-6)
        train(model, SGD(model.active_parameters(), lr=0.1))


def test_rows_are_carried_bit_for_bit() -> None:
    model = student()
    model.grow(fragments=1, classes=4)
    for fragments, classes in STAGES[1:]:
        linear = model.head.linear if model.head else model.classifier
        rows = min(model.classes, len(linear.weight))
        weight, bias = linear.weight[:rows].clone(), linear.bias[:rows].clone()
        model.grow(fragments=fragments, classes=classes, keep_rows=True)
        linear = model.head.linear if model.head else model.classifier
        assert torch.equal(linear.weight[:rows], weight)
        assert torch.equal(linear.bias[:rows], bias)


def test_without_keep_rows_a_deeper_student_starts_afresh() -> None:
    model = student()
    original = model.classifier.weight.clone()
    model.grow(fragments=1, classes=4)
    rows = model.head.linear.weight.clone()
    model.grow(fragments=2, classes=4)
    assert not torch.equal(model.head.linear.weight, rows)
    model.grow(fragments=3, classes=4)
    assert torch.equal(model.classifier.weight, original)


def test_rows_move_into_a_convolution() -> None:
    pytest.importorskip("torchvision")
    network = create_model("torchvision/squeezenet1_1", 6)
    model = Student(network, 2, input_size=(3, 64, 64), head="pool_first")
    model.grow(fragments=1, classes=4)
    optimizer = SGD(model.active_parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    optimizer.step()
    weight = model.head.linear.weight
    rows, momentum = weight.clone(), optimizer.state[weight]["momentum_buffer"].clone()
    model.grow(fragments=2, classes=6, keep_rows=True, optimizer=optimizer)
    assert torch.equal(model.classifier.weight[:4].flatten(1), rows)
    carried = optimizer.state[model.classifier.weight]["momentum_buffer"]
    assert torch.equal(carried[:4].flatten(1), momentum)
    assert not carried[4:].any()


def test_last_logits_are_a_view_of_the_classifier() -> None:
    model = student().eval()
    model.grow(fragments=3, classes=7)
    assert torch.equal(model(images()), model.model(images())[:, :7])


def test_a_seed_of_numpy_gives_the_same_weights_as_the_same_integer() -> None:
    plain, numpy = student(seed=3), student(seed=np.int64(3))
    for each in (plain, numpy):
        each.grow(fragments=1, classes=4)
    assert torch.equal(plain.head.linear.weight, numpy.head.linear.weight)
    for seed in (-1, 1.5, "1", True):
        with pytest.raises(ValueError, match=r"^seed is .*; expected"):
            student(seed=seed)


def test_new_weights_depend_on_seed_and_stage_only() -> None:
    long, short, other = student(seed=3), student(seed=3), student(seed=4)
    long.grow(fragments=1, classes=4)
    torch.rand(5)
    state = torch.get_rng_state()
    for model in (long, short, other):
        model.grow(fragments=2, classes=6)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are touched
    for a, b, c in zip(*(m.head.parameters() for m in (long, short, other)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == (a.dim() == 1 and a.shape == (64,))  # norms start alike
    assert short.head.linear.weight.abs().max() <= 64**-0.5  # PyTorch's default for 64 features


def test_new_weights_differ_between_stages() -> None:
    heads = []
    for fragments, classes in [(1, 4), (1, 5), (2, 4)]:
        model = student()
        model.grow(fragments=fragments, classes=classes)
        heads.append(model.head)
    narrow, wide, deep = (head.linear.weight[:4] for head in heads)
    assert not torch.equal(narrow, wide)  # classes count
    assert not torch.equal(narrow, deep)  # and so do fragments
    assert not torch.equal(heads[0].adapter.weight, heads[1].adapter.weight)


@pytest.mark.parametrize("head", ["pool_first", "linear"])
def test_channels_last_features_are_read_by_channel(head: str) -> None:
    maps, last = (ReferenceHead(5, 6, 3, head, channels_last=flag).eval() for flag in (False, True))
    last.load_state_dict(maps.state_dict())
    x = torch.randn(2, 5, 4, 3)
    torch.testing.assert_close(last(x.permute(0, 2, 3, 1)), maps(x))
    torch.testing.assert_close(last(x.permute(0, 2, 3, 1).flatten(1, 2)), maps(x))


def test_head_width_is_free_but_rows_cannot_move_then() -> None:
    model = student(head_width=7)
    model.grow(fragments=1, classes=4)
    assert model.head.adapter.out_channels == model.head.linear.in_features == 7
    model.grow(fragments=2, classes=6, keep_rows=True)
    with pytest.raises(ValueError, match="rows of 7 features cannot become rows of 64"):
        model.grow(fragments=3, classes=6, keep_rows=True)
    assert model.grown == 2
    model.grow(fragments=3, classes=6)
    with pytest.raises(ValueError, match="head_width is 0; expected at least 1"):
        student(head_width=0)


def test_linear_heads() -> None:
    model = student(head="linear")
    model.grow(fragments=1, classes=4)
    assert [name for name, _ in model.head.named_parameters()] == ["linear.weight", "linear.bias"]
    assert model.head.linear.in_features == 16
    with pytest.raises(ValueError, match="rows of 16 features cannot become rows of 32"):
        model.grow(fragments=2, classes=4, keep_rows=True)
    model.grow(fragments=2, classes=4)
    assert model(images()).shape == (4, 4)


def test_new_head_follows_mode_and_dtype() -> None:
    model = student().double().eval()
    model.grow(fragments=1, classes=4)
    assert not model.head.training
    assert model(images().double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("fragments", "classes", "message"),
    [
        (1, 6, "fragments is 1; expected at least 2"),
        (4, 6, "fragments is 4; expected at most 3"),
        (2.5, 6, "fragments is 2.5; expected an integer"),
        (2, 5, "classes is 5; expected at least 6"),
        (3, 11, "classes is 11; expected at most 10"),
        (2, "6", "classes is '6'; expected an integer"),
    ],
)
def test_growth_is_checked_and_changes_nothing(fragments: int, classes: int, message: str) -> None:
    model = student()
    model.grow(fragments=2, classes=6)
    head = model.head
    with pytest.raises(ValueError, match=message):
        model.grow(fragments=fragments, classes=classes)
    assert (model.grown, model.classes, model.head) == (2, 6, head)


def test_numbers_of_numpy_grow_a_student() -> None:
    model = student()
    model.grow(fragments=np.int64(2), classes=np.int32(6))
    assert (model.grown, model.classes) == (2, 6) and model.flops(np.int64(1)) == model.flops(1)


def test_before_the_first_growth() -> None:
    model = student()
    assert list(model.active_parameters()) == []
    assert model.flops() == 0
    with pytest.raises(RuntimeError, match="call grow"):
        model(images())
    with pytest.raises(ValueError, match="fragments is 0; expected at least 1"):
        model.grow(fragments=0, classes=2)
    with pytest.raises(ValueError, match="classes is 0; expected at least 1"):
        model.grow(fragments=1, classes=0)


def test_active_parameters_are_those_with_gradients() -> None:
    model = student()
    for fragments, classes in STAGES:
        model.grow(fragments=fragments, classes=classes)
        model.zero_grad()
        model(images()).sum().backward()
        active = list(model.active_parameters())
        reached = [p for p in model.parameters() if p.grad is not None]
        assert [id(p) for p in active] == [id(p) for p in reached]


# Graduation


class Forgetful(nn.Sequential):
    """Keeps its first layer in eval mode and, like many, forgets to return itself."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)
        self[0].eval()


def test_a_model_whose_train_returns_nothing_graduates() -> None:
    model = Student(Forgetful(*tiny_model()), 2, input_size=(3, 16, 16))
    model.grow(fragments=2, classes=6)
    graduate = model.graduate()
    assert isinstance(graduate, Forgetful) and not graduate[1].training


def test_graduate_is_the_plain_model() -> None:
    model = finished()
    graduate = model.graduate()
    assert type(graduate) is ResNet
    assert not any(m.training for m in graduate.modules())
    for module in graduate.modules():
        assert type(module).__module__.startswith(("torch.nn", "edufast.models.zoo"))
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    fresh = create_model("resnet8", CLASSES).eval()
    assert set(vars(graduate)) == set(vars(fresh))
    fresh.load_state_dict(graduate.state_dict(), strict=True)
    assert torch.equal(fresh(images()), model(images()))
    assert torch.equal(graduate(images()), model(images()))
    graduate.fc.weight.data.zero_()
    assert model.classifier.weight.any()  # a copy


def test_graduate_answers_in_class_ids() -> None:
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(2)).tolist()
    model = finished(ids=order)
    # Column j of the student stands for class order[j].
    torch.testing.assert_close(model.graduate()(images())[:, order], model(images()))


def test_a_pretrained_classifier_keeps_its_classes() -> None:
    torch.manual_seed(0)
    expected = create_model("resnet8", CLASSES).eval()
    model = student(ids=range(CLASSES)[::-1])
    model.grow(fragments=3, classes=CLASSES)
    torch.testing.assert_close(model.eval()(images()).flip(1), expected(images()))
    assert torch.equal(model.graduate()(images()), expected(images()))


@pytest.mark.parametrize(("fragments", "classes"), [(2, 10), (3, 9)])
def test_nobody_graduates_early(fragments: int, classes: int) -> None:
    model = student()
    model.grow(fragments=fragments, classes=classes)
    with pytest.raises(RuntimeError, match=r"has 2 of 3 fragments|has 9 of 10 classes"):
        model.graduate()


def test_rows_follow_classes_that_are_assigned_again() -> None:
    order = torch.randperm(CLASSES, generator=torch.Generator().manual_seed(2)).tolist()
    model = student(ids=order)
    model.assign_classes(ClassMap.of(range(CLASSES)))
    assert torch.equal(model.classifier.weight, student().classifier.weight)


def test_a_student_of_some_classes_answers_in_rising_ids() -> None:
    ids = [40, 7, 90, 12, 33, 5, 61, 70, 2, 18]
    model = finished(ids=ids)
    rising = [ids.index(c) for c in sorted(ids)]
    torch.testing.assert_close(model.graduate()(images()), model(images())[:, rising])


def test_classes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="class_map has 9 classes; expected 10"):
        student(ids=range(9))
    model = finished()
    with pytest.raises(RuntimeError, match="has already grown"):
        model.assign_classes(ClassMap.of(range(10, 20)))


# As a module


@pytest.mark.parametrize("mode", [True, False])
def test_compiles_without_a_graph_break_at_each_stage(mode: bool) -> None:
    torch.compiler.reset()  # what other tests compiled counts towards the limit
    model = student().train(mode)
    for fragments, classes in [(1, 4), (2, 6), (3, 8), (3, 10)]:
        model.grow(fragments=fragments, classes=classes)
        twin = copy.deepcopy(model)
        compiled = torch.compile(twin, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images()), model(images()))


def test_state_dict_has_every_tensor_once() -> None:
    model = student()
    model.grow(fragments=2, classes=4)
    state = model.state_dict()
    expected = [*create_model("resnet8", CLASSES).state_dict(), *model.head.state_dict()]
    assert sorted(name.split(".", 1)[1] for name in state) == sorted(expected)
    assert len({t.data_ptr() for t in state.values()}) == len(state)
    other = student(seed=9)
    other.grow(fragments=2, classes=4)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.eval()(images()), model.eval()(images()))
    with pytest.raises(RuntimeError):
        student().load_state_dict(state)  # not at that stage


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_are_independent(clone: Callable[[Student], Student]) -> None:
    model = student()
    model.grow(fragments=2, classes=4)
    twin = clone(model.eval())
    assert torch.equal(twin(images()), model(images()))
    assert repr(twin) == repr(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not twin(images()).any()
    assert model(images()).any()
    twin.grow(fragments=3, classes=CLASSES)
    twin.graduate()


def test_train_and_eval_reach_every_part() -> None:
    model = student()
    model.grow(fragments=1, classes=4)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.eval()(images())
    assert not any(int(norm.num_batches_tracked) for norm in norms)
    model.train()(images())
    counts = {name: int(b) for name, b in model.named_buffers() if name.endswith("tracked")}
    assert all(
        count == name.startswith(("model.bn1", "model.layer1", "head"))
        for name, count in counts.items()
    )


def test_names_that_can_be_gone_through_once_are_all_taken() -> None:
    names = [name for name, _ in tiny_model().named_parameters()]
    model = Student(
        tiny_model(), 3, input_size=(3, 16, 16), cuts=iter(["0", "1"]), learned=iter(names)
    )
    assert [fragment.name for fragment in model.fragments[:-1]] == ["0", "1"]
    assert len(model.learned) == len(names)


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper"])
def test_flops_are_counted_ones(head: str) -> None:
    model = student(head=head)
    for fragments, classes in STAGES:
        model.grow(fragments=fragments, classes=classes)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            model.eval()(images(1))
        assert model.flops() == model.flops(fragments) == counter.get_total_flops()
    with pytest.raises(ValueError, match="fragments is 4"):
        model.flops(4)


def test_flops_of_linear_heads_are_counted_ones() -> None:
    model = student(head="linear")
    model.grow(fragments=2, classes=6)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        model.eval()(images(1))
    assert model.flops() == counter.get_total_flops()


def test_pool_first_costs_a_fraction_of_the_paper_head() -> None:
    costs = {
        h: student(head=h).flops(1) / student(head=h).flops(3) for h in ("pool_first", "paper")
    }
    assert costs["pool_first"] < 0.45 < costs["paper"]


def test_repr_shows_the_stage() -> None:
    model = student()
    model.grow(fragments=2, classes=6)
    lines = repr(model).splitlines()
    assert lines[0].startswith("Student(ResNet: 2 of 3 fragments, 6 of 10 classes")
    assert [line.split()[0] for line in lines[1:]] == ["*", ">", "3"]
    assert "layer1" in lines[1]


def test_named_cuts_reach_the_student() -> None:
    assert [f.name for f in student(cuts=["relu", "layer2"]).fragments] == ["relu", "layer2", "fc"]


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_models_are_taken_as_they_are_inside(
    wrap: Callable[[nn.Module], nn.Module],
) -> None:
    model = tiny_model()
    assert Student(wrap(model), 2, input_size=(3, 16, 16)).model is model
