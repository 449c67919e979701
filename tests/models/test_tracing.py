"""What tracing follows, what stays whole, and that the model is left as it was."""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edufast.models.cutting import cut
from edufast.models.tracing import (
    Trace,
    compile_graph,
    measure,
    module_path,
    to_faster_layout,
    trace,
    try_out,
)
from edufast.utils.errors import UserError
from tests.models.networks import Block, Residual, run
from tests.tiny import Viewing, tiny_model


def test_slices_of_a_trace_in_a_row_are_the_model() -> None:
    model = Residual().eval()
    traced = trace(model, False, (8,))
    assert set(traced.crossings) == {"blocks.0", "blocks.1", "blocks.2", "blocks", "fc"}
    x = torch.randn(3, 8)
    expected = model(x)
    for start, stop in ((None, "blocks.1"), ("blocks.1", "blocks.2"), ("blocks.2", None)):
        x = compile_graph(traced.slice(start, stop), "part")(model, x)
    assert torch.equal(x, expected)


def test_a_value_crosses_where_nothing_else_is_needed_later() -> None:
    """Not inside a residual block, whose input is still to be added."""
    crossings = trace(Residual(2).eval(), False).crossings
    assert list(crossings) == ["blocks.0", "blocks", "fc"]  # not blocks.0.first


def test_flops_and_shapes_are_those_of_one_image() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
    traced = trace(model, False, (3, 8, 8))
    flops, shapes = measure(model, traced, (3, 8, 8))
    by_module = {module_path(n)[0]: i for i, n in enumerate(traced.nodes) if module_path(n)}
    assert flops[by_module["0"]] == 2 * 3 * 3 * 3 * 4 * 6 * 6
    assert flops[by_module["3"]] == 2 * 4 * 6 * 6 * 5 and sum(flops) == 7776 + 1440
    assert shapes[traced.nodes[by_module["1"]]] == (4, 6, 6)
    assert shapes[traced.nodes[-1]] == (5,)


def test_compiled_code_shows_in_tracebacks() -> None:
    model = nn.Sequential(nn.Linear(8, 5))
    forward = compile_graph(trace(model, False).slice(None, None), "Linear.eval")
    with pytest.raises(RuntimeError) as caught:
        forward(model, torch.zeros(2, 3))
    lines = traceback.format_exception(caught.value)
    assert any("<edufast Linear.eval>" in line and "getattr(self" in line for line in lines)


def test_a_run_that_fails_says_on_which_images() -> None:
    model = nn.Linear(9, 5)
    try_out(model, (9,))
    with pytest.raises(UserError, match=r"Linear fails on images of input_size=\(8,\): mat1"):
        try_out(model, (8,))


def test_what_forward_reads_from_training_is_live() -> None:
    model = Residual()
    cutting = cut(model, 3, input_size=(8,))
    x = torch.randn(64, 8)
    for training in (False, True, False):
        model.train(training)
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        assert torch.equal(run(cutting, model, x), expected)


class Branching(Block):
    """Control flow that depends on data: cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


def test_a_module_that_cannot_be_traced_stays_whole() -> None:
    model = Residual(block=Branching).eval()
    cutting = cut(model, 2, input_size=(8,), cuts=["blocks.1"])
    for x in (torch.ones(2, 8), -torch.ones(2, 8)):
        assert torch.equal(run(cutting, model, x), model(x))


class FunctionalBetween(nn.Module):
    """Works on outside of its submodules, behind one that cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Branching(8)
        self.second = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.fc(self.second(x) * 2)


def test_cuts_keep_their_places_behind_what_cannot_be_traced() -> None:
    model = FunctionalBetween().eval()
    x = -torch.ones(2, 8)  # negative: would not survive the activation
    first, last = cut(model, 2, input_size=(8,), cuts=["first"]).fragments
    assert torch.equal(first(model, x), x)
    assert torch.equal(last(model, x), model(x))


class Tokens(nn.Module):
    """Questions about sizes, sizes handed on, the size of the batch: what transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 5)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls = x.shape[2]  # a proxy, while it is traced
        batch, _, height, width = x.shape
        if height % 4 or width % 4 or x.dtype != self.fc.weight.dtype:
            raise ValueError("the size of the images is no multiple of 4")
        height, width = height // 4, width // 4
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.first(x)
        x = self.second(x).reshape(batch, height * width, 8)
        return self.fc(x.sum(1) / (height * width))


def test_sizes_are_no_obstacle() -> None:
    model = Tokens().eval()
    cutting = cut(model, 3, input_size=(3, 8, 12), cuts=["embed", "first"])
    assert model.calls == 0
    assert [fragment.shape for fragment in cutting.fragments] == [(8, 2, 3), (6, 8), (5,)]
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 12)
        assert torch.equal(run(cutting, model, x), model(x))


class AskingForTheBatch(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if len(x.shape) == 2 and x.shape[0] > 1 else x


def test_what_depends_on_the_size_of_the_batch_stays_whole() -> None:
    model = Residual(block=AskingForTheBatch).eval()
    cutting = cut(model, 2, input_size=(8,), cuts=["blocks.1"])
    for batch in (1, 2):
        x = torch.randn(batch, 8)
        assert torch.equal(run(cutting, model, x), model(x))


class Answer(dict):
    logits = property(lambda self: self["logits"])


class AnsweringInADictionary(Residual):
    """The way of Hugging Face."""

    def forward(self, x: Tensor, labels: Tensor | None = None, **options: object) -> Answer:
        return Answer(loss=None if labels is None else labels.sum(), logits=super().forward(x))


def test_logits_in_a_dictionary() -> None:
    model = AnsweringInADictionary().eval()
    x = torch.randn(2, 8)
    assert torch.equal(run(cut(model, 2, input_size=(8,)), model, x), model(x).logits)


class Counting(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls.add_(1)
        return self.linear(x) + self.calls


def test_buffers_changed_by_forward_change_when_a_fragment_runs() -> None:
    model = Residual(block=Counting)
    cutting = cut(model, 2, input_size=(8,))
    assert [int(block.calls) for block in model.blocks] == [0, 0, 0, 0]
    x = torch.randn(2, 8)
    run(cutting, model, x)
    assert [int(block.calls) for block in model.blocks] == [1, 1, 1, 1]
    model.eval()
    assert torch.equal(run(cutting, model, x), model(x))


class Assigning(Counting):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls = self.calls + 1
        return self.linear(x) + self.calls


def test_buffers_that_forward_assigns_stay_tensors_and_are_assigned() -> None:
    model = Residual(block=Assigning)
    cutting = cut(model, 2, input_size=(8,))
    assert [int(block.calls) for block in model.blocks] == [0, 0, 0, 0]
    run(cutting, model, torch.randn(2, 8))
    assert [int(block.calls) for block in model.blocks] == [1, 1, 1, 1]
    with pytest.raises(UserError, match=r"assigns its buffer 'calls'; change it in place"):
        trace(Assigning(8), training=True)


def test_modes_of_submodules_survive() -> None:
    model = Residual()
    model.blocks[1].eval()
    cut(model, 2, input_size=(8,))
    assert [block.training for block in model.blocks] == [True, False, True, True]


def test_other_threads_run_and_trace_models_at_the_same_time() -> None:
    """torch.fx replaces what calls a module, in all threads."""
    other = nn.Sequential(nn.Linear(8, 5), nn.ReLU())
    entered = threading.Event()

    class Traced(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self is second and not entered.is_set():
                entered.set()
            elif self is first:
                ran.append(pool.submit(other, torch.ones(1, 8)).result())
                tracing.append(pool.submit(trace, nn.Sequential(second), False))
                entered.wait(0.2)  # which it does only if both trace at once
            return super().forward(x)

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = first

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.forward(x)

    first, second = Traced(8, 8), Traced(8, 8)
    ran: list[Tensor] = []
    tracing: list[Future[Trace]] = []
    called = nn.Module.__call__
    with ThreadPoolExecutor() as pool:
        assert len(trace(Root(), False).nodes)
        assert len(tracing[0].result().nodes)
    assert torch.equal(ran[0], other(torch.ones(1, 8))) and nn.Module.__call__ is called


def test_weights_are_channels_last_where_the_model_runs_on_such_images() -> None:
    def last(model: nn.Module) -> list[bool]:
        maps = [p for p in model.parameters() if p.dim() == 4]
        return [p.is_contiguous(memory_format=torch.channels_last) for p in maps]

    model, viewing = tiny_model(), Viewing()
    assert to_faster_layout(model, (3, 16, 16)) and all(last(model))
    assert not to_faster_layout(viewing, (3, 16, 16)) and not any(last(viewing))
    flat = nn.Sequential(nn.Unflatten(1, (3,)), nn.Flatten(), nn.Linear(192, 2))
    flat.forward = lambda x: flat[2](x.view(len(x), -1))  # type: ignore[method-assign]
    assert not to_faster_layout(flat, (3, 8, 8))
    assert to_faster_layout(Residual(), (8,))
