from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from edufast.data.class_map import ClassMap
from edufast.models.zoo import create_model
from edufast.student.early_exits import EarlyExit, EveryExit, exit_flops
from edufast.student.student import Student

CLASSES = 10
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
GRADES = [(1, 4), (2, 7), (3, 10)]


def student(**options: object) -> Student:
    torch.manual_seed(0)
    options = {"head": "pool_first"} | options
    result = Student(create_model("resnet8", CLASSES), 3, input_size=(3, 16, 16), **options)
    result.assign_classes(ClassMap.of(ORDER))
    return result


def images(batch: int = 6) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def train(model: Student, optimizer: Optimizer, steps: int = 2) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        labels = torch.arange(6) % model.classes
        loss = sum(nn.functional.cross_entropy(x, labels) for x in model.forward_exits(images()))
        loss.backward()
        optimizer.step()


def finished(*, keep_exits: bool = True, **options: object) -> Student:
    model = student(**options)
    optimizer = None
    for fragments, classes in GRADES:
        model.grow(fragments=fragments, classes=classes, optimizer=optimizer, keep_exits=keep_exits)
        optimizer = optimizer or SGD(model.active_parameters(), lr=0.1, momentum=0.9)
        train(model, optimizer)
    return model.eval()


def test_exits_are_kept_trained_and_widened() -> None:
    model = student()
    for depths, (fragments, classes) in zip([(1,), (1, 2), (1, 2, 3)], GRADES, strict=True):
        model.grow(fragments=fragments, classes=classes, keep_exits=True)
        assert model.depths == depths
        logits = model.forward_exits(images())
        assert [x.shape for x in logits] == [(6, classes)] * fragments
        model.zero_grad()
        sum(x.sum() for x in logits).backward()
        reached = [id(p) for p in model.parameters() if p.grad is not None]
        assert [id(p) for p in model.active_parameters()] == reached
    model.eval()
    assert torch.equal(model.forward_exits(images())[-1], model(images()))


def test_without_the_option_there_is_one_exit() -> None:
    model = student()
    assert model.depths == ()
    for fragments, classes in GRADES:
        model.grow(fragments=fragments, classes=classes)
        assert model.depths == (fragments,)
        assert len(model.forward_exits(images())) == 1


def test_a_kept_exit_computes_what_it_computed() -> None:
    model = student().eval()
    model.grow(fragments=1, classes=4, keep_exits=True)
    before = model(images())
    model.grow(fragments=2, classes=4, keep_exits=True)
    assert torch.equal(model.forward_exits(images())[0], before)
    features = model.fragments[0](model.model, images())
    adapted = model.exits["1"].norm(model.exits["1"].adapter(features.mean((2, 3), keepdim=True)))
    model.grow(fragments=2, classes=7, keep_exits=True)
    head = model.exits["1"]
    after = head.norm(head.adapter(features.mean((2, 3), keepdim=True)))
    assert torch.equal(after, adapted)
    torch.testing.assert_close(model.forward_exits(images())[0][:, :4], before)


@pytest.mark.parametrize("keep_rows", [False, True])
@pytest.mark.parametrize(
    "optimizer", [lambda p: SGD(p, lr=0.1, momentum=0.9), lambda p: AdamW(p, lr=1e-3)]
)
def test_optimizer_keeps_the_state_of_kept_exits(optimizer, keep_rows: bool) -> None:
    model = student()
    model.grow(fragments=1, classes=4, keep_exits=True)
    chosen = optimizer(model.active_parameters())
    for fragments, classes in GRADES[1:]:
        train(model, chosen)
        depth, head = model.grown, model.head
        kept = {p: copy.deepcopy(chosen.state[p]) for p in head.adapter.parameters()}
        rows, state = head.linear.weight.clone(), copy.deepcopy(chosen.state[head.linear.weight])
        model.grow(
            fragments=fragments,
            classes=classes,
            optimizer=chosen,
            keep_rows=keep_rows,
            keep_exits=True,
        )
        for parameter, before in kept.items():
            torch.testing.assert_close(chosen.state[parameter], before, rtol=0, atol=0)
        wide = model.exits[str(depth)].linear.weight
        closing = model._closing_linear().weight
        for linear in [wide, closing] if keep_rows else [wide]:
            assert torch.equal(linear[: len(rows)], rows)
            for key, value in state.items():
                now = chosen.state[linear][key]
                if value.dim():
                    assert torch.equal(now[: len(rows)], value) and not now[len(rows) :].any()
                else:  # a step counter: equal, and not the same tensor
                    assert torch.equal(now, value)
        assert (closing in chosen.state) == keep_rows
        tensors = [t for s in chosen.state.values() for t in s.values() if isinstance(t, Tensor)]
        assert len({t.data_ptr() for t in tensors}) == len(tensors)
        held = [id(p) for p in chosen.param_groups[0]["params"]]
        assert held == [id(p) for p in model.active_parameters()]
    train(model, chosen)


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper", "linear"])
def test_every_exit_graduates_plain(head: str) -> None:
    model = finished(head=head)
    logits = model.forward_exits(images())
    for depth, expected in zip(model.depths, logits, strict=True):
        graduate = model.graduate(exit=depth)
        assert not any(m.training for m in graduate.modules())
        assert not any(
            type(m).__module__.startswith("edufast.student.student") for m in graduate.modules()
        )
        assert not any(type(m).__name__ == "ReferenceHead" for m in graduate.modules())
        # Column j of the student stands for class ORDER[j].
        torch.testing.assert_close(graduate(images())[:, ORDER], expected)
        # Reproducible from the recipe alone.
        twin = student(head=head)
        for fragments in range(1, depth + 1):
            twin.grow(fragments=fragments, classes=CLASSES, keep_exits=True)
        fresh = twin.graduate(exit=depth)
        fresh.load_state_dict(graduate.state_dict(), strict=True)
        assert torch.equal(fresh(images()), graduate(images()))
    sizes = [sum(p.numel() for p in model.graduate(exit=d).parameters()) for d in (1, 2, 3)]
    assert sizes == sorted(sizes)
    small = model.graduate(exit=1)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(model.forward_exits(images())[0], logits[0])  # a copy


def test_images_are_reduced_as_by_the_student() -> None:
    model = student()
    model.grow(fragments=2, classes=CLASSES)
    model.image_size = 12
    torch.testing.assert_close(
        EarlyExit(model, 1.0)(images()).logits[:, ORDER], model.eval()(images())
    )


@pytest.mark.parametrize("frozen", [1, 2])
def test_frozen_fragments_stay_while_their_exits_learn(frozen: int) -> None:
    model = finished(head="grid")
    names = {n for piece in model.fragments[:frozen] for n in piece.parameters}
    logits = model.forward_exits(images())
    model.frozen = frozen
    still = model.forward_exits(images())
    assert all(torch.equal(a, b) for a, b in zip(logits, still, strict=True))
    model.zero_grad()
    sum(x.square().sum() for x in still).backward()
    untouched = {name for name, p in model.model.named_parameters() if p.grad is None}
    assert untouched == names
    assert all(p.grad is not None for head in model.exits.values() for p in head.parameters())
    # They run forward only: 1 of 3 passes.
    saved = 2 * sum(piece.flops for piece in model.fragments[:frozen])
    assert model.training_flops() == 3 * model.flops() - saved


def test_exits_that_do_not_exist() -> None:
    model = finished(keep_exits=False)
    with pytest.raises(ValueError, match="exit=1: expected one of 3"):
        model.graduate(exit=1)
    small = student()
    small.grow(fragments=1, classes=CLASSES, keep_exits=True)
    assert small.graduate(exit=1)(images()).shape == (6, CLASSES)
    with pytest.raises(RuntimeError, match="has 1 of 3 fragments"):
        small.graduate()


def test_flops_count_the_exits() -> None:
    model = student()
    for fragments, classes in GRADES:
        model.grow(fragments=fragments, classes=classes, keep_exits=True)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            model.eval().forward_exits(images(1))
        assert model.flops() == counter.get_total_flops()
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            model(images(1))
        assert model.flops(fragments) == counter.get_total_flops()


def test_exits_survive_copies_and_state_dicts() -> None:
    model = finished()
    twin = copy.deepcopy(model)
    for a, b in zip(twin.forward_exits(images()), model.forward_exits(images()), strict=True):
        assert torch.equal(a, b)
    other = student(seed=5)
    for fragments, classes in GRADES:
        other.grow(fragments=fragments, classes=classes, keep_exits=True)
    other.load_state_dict(model.state_dict(), strict=True)
    for a, b in zip(
        other.eval().forward_exits(images()), twin.forward_exits(images()), strict=True
    ):
        assert torch.equal(a, b)


# Early exit


def confidences(model: Student) -> Tensor:
    return torch.stack([x.softmax(1).amax(1) for x in model.forward_exits(images())])


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.6, 1.0])
def test_images_leave_where_an_exit_is_sure(quantile: float) -> None:
    model = finished()
    sure = confidences(model)
    threshold = sure[:2].flatten().quantile(quantile).item()
    answer = EarlyExit(model, threshold)(images())
    expected = [next((d for d in (1, 2) if sure[d - 1, i] >= threshold), 3) for i in range(6)]
    assert answer.depth.tolist() == expected
    logits = torch.stack([model.graduate(exit=d)(images()) for d in model.depths])
    chosen = logits[answer.depth - 1, torch.arange(6)]
    torch.testing.assert_close(answer.logits, chosen)


def test_one_image_at_a_time_is_as_a_batch() -> None:
    model = finished()
    early = EarlyExit(model, confidences(model)[:2].median().item() - 1e-4)
    batch = early(images())
    assert len(set(batch.depth.tolist())) > 1
    for i, image in enumerate(images()):
        single = early(image[None])
        assert single.depth.tolist() == batch.depth[i : i + 1].tolist()
        torch.testing.assert_close(single.logits[0], batch.logits[i])


def test_only_what_is_left_runs_on() -> None:
    model = finished()
    sizes: list[int] = []
    early = EarlyExit(model, confidences(model)[:2].median().item())
    for name in ("layer1", "layer2", "layer3"):
        block = early.student.model.get_submodule(name)[0].conv1
        block.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    depth = early(images()).depth
    left = [int((depth > d).sum()) for d in (0, 1, 2)]
    assert sizes == [count for count in left if count] and left[1] < 6


def test_thresholds_at_the_ends_and_no_image() -> None:
    model = finished()
    assert EarlyExit(model, 0.0)(images()).depth.tolist() == [1] * 6
    assert EarlyExit(model, 1.0)(images()).depth.tolist() == [3] * 6
    empty = EarlyExit(model, 0.5)(images()[:0])
    assert empty.logits.shape == (0, CLASSES) and empty.depth.shape == (0,)


def test_early_exits_are_a_copy_for_inference() -> None:
    model = finished().train()
    early = EarlyExit(model, 0.5)
    assert model.training and not early.student.training
    with pytest.raises(RuntimeError, match="inference"):
        early.train()(images())
    for threshold in (-0.1, 1.1, float("nan"), "0.5", True):
        with pytest.raises(ValueError, match="threshold is"):
            EarlyExit(model, threshold)
    young = student()
    young.grow(fragments=1, classes=4, keep_exits=True)
    with pytest.raises(RuntimeError, match="4 of 10 classes"):
        EarlyExit(young, 0.5)


def test_every_exit_answers_in_the_order_of_class_ids() -> None:
    model = finished()
    answers = EveryExit(model)(images())
    for depth, logits in zip(model.depths, answers, strict=True):
        torch.testing.assert_close(logits, model.graduate(exit=depth)(images()))


def test_flops_of_an_exit_count_the_heads_that_are_passed() -> None:
    model = finished()
    first, sure = images(1), confidences(model)[:, 0]
    assert sure[0] < sure[1]  # so that a threshold passes the first exit and leaves at the second
    thresholds = (0.0, sure[:2].mean().item(), 1.0)
    for depth, flops, threshold in zip(model.depths, exit_flops(model), thresholds, strict=True):
        early = EarlyExit(model, threshold)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            assert early(first).depth.tolist() == [depth]
        assert flops == counter.get_total_flops()


def test_a_small_student_exports(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    from edufast.edge.export import export

    model = finished()
    report = export(model.graduate(exit=1), tmp_path / "small.onnx", input_size=(3, 16, 16))
    assert report.parity.agreement == 1.0
