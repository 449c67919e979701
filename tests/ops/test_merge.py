"""merge_: every backend against the reference."""

from __future__ import annotations

import copy
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from edufast.ops import MergePlan, merge_
from edufast.ops.reference.merge import Merge, reference
from tests.ops.merge_cases import (
    LAYOUTS,
    after,
    assert_same_bits,
    laid_out,
    merges,
    poolings,
    values,
)


def cpp(*arguments: object) -> None:
    torch.ops.edufast.merge_.default(*arguments)


def plan(*arguments: object) -> None:
    m = Merge(*arguments)
    lists = [m.sources[n * len(m.targets) :][: len(m.targets)] for n in range(len(m.weights))]
    pairs = list(zip(m.moments[::2], m.moments[1::2], strict=True))
    fill = [None if math.isnan(value) else value for value in m.fill] or None
    run = MergePlan(m.targets, lists, fill=fill, moments=pairs)
    run(m.weights, keep=m.keep)


@pytest.mark.parametrize("run", [cpp, plan])
@given(m=merges())
@settings(max_examples=400, deadline=None)
def test_kernels_give_the_bits_of_the_reference(run: Callable[..., None], m: Merge) -> None:
    assert_same_bits(after(run, m), after(reference, m))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_do_not_depend_on_threads_or_runs(threads: int) -> None:
    """Enough elements for several threads, cut at places that no vector length divides."""
    shapes = [(517, 333), (7,), (1025, 2057), (3, 3)]
    targets = [values(s, torch.float32, i) for i, s in enumerate(shapes)]
    sources = [
        values(s, torch.bfloat16, 10 * n + i) for n in range(3) for i, s in enumerate(shapes)
    ]
    m = Merge(targets, sources, [0.3, 0.1, 0.2], 0.4, [], [], [])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, second = after(cpp, m), after(cpp, m)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(first, second)
    assert_same_bits(first, after(reference, m))


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("lists", [1, 2, 4])
def test_large_merges_bypass_the_cache(lists: int, offset: int) -> None:
    """Other stores, from 2^24 elements of traffic on; targets begin and end at odd places."""
    size = 2**24 // (lists + 1) + 77
    sources = [values((size,), torch.float32, n) for n in range(lists)]
    target, expected = torch.zeros(size + offset + 1), torch.zeros(size)
    m = Merge([target[offset:-1]], sources, [1 / lists] * lists, 0.0, [], [], [])
    with torch.no_grad():
        cpp(*m)
        reference(*m._replace(targets=[expected]))
    assert torch.equal(target[offset:-1], expected)
    assert target[:offset].eq(0).all() and target[-1] == 0


def test_all_float16_numbers_survive_the_way_through_float32() -> None:
    half = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    half = half[~half.isnan()]
    wide, back = torch.empty(len(half)), torch.empty(len(half), dtype=torch.float16)
    merge_([wide], [half])
    merge_([back], [wide])
    assert torch.equal(wide, half.float())
    assert torch.equal(back.view(torch.int16), half.view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_that_of_torch(dtype: torch.dtype) -> None:
    """Ties, denormal results, overflow, infinities: numbers around every 16-bit one."""
    grid = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).float()
    grid = grid[grid.isfinite()].sort().values
    x = torch.cat([grid, (grid[1:] + grid[:-1]) / 2, grid * (1 + 1e-4), grid * (1 - 1e-4)])
    x = torch.cat([x, torch.tensor([math.inf, -math.inf, 1e38, -1e38, 1e-45, 65519.9, 65520.0])])
    got = torch.empty(len(x), dtype=dtype)
    merge_([got], [x])
    assert torch.equal(got, x.to(dtype))
    nan = torch.empty(3, dtype=dtype)
    merge_([nan], [torch.full((3,), math.nan)])
    assert nan.isnan().all()


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_an_unkept_target_is_not_read(backend: str) -> None:
    target = torch.full((3,), math.nan)
    merge_([target], [[torch.ones(3)], [torch.zeros(3)]], backend=backend)
    assert target.tolist() == [0.5] * 3


def test_nothing_to_merge() -> None:
    merge_([], [])
    MergePlan([], [])()


@pytest.mark.skipif(
    os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 6 * 2**30, reason="needs 5 GB"
)
def test_offsets_beyond_32_bits() -> None:
    """2^31 + 1 bytes: the cheapest tensor whose last element needs a 64-bit offset."""
    size = 2**31 + 1
    source = torch.zeros(size, dtype=torch.int8)
    source[-1] = 7
    target = torch.empty(size, dtype=torch.int8)
    merge_([target], [source])
    assert target[-1] == 7 and target[0] == 0


# --- growth, optimizer state, moments -------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_growth_keeps_rows_bit_for_bit_and_carries_optimizer_state(backend: str) -> None:
    old, new = torch.nn.Linear(5, 3), torch.nn.Linear(5, 7)
    fresh = new.weight[3:].clone(), new.bias[3:].clone()
    optimizer = torch.optim.Adam(old.parameters())
    old(torch.randn(4, 5)).sum().backward()
    optimizer.step()
    state = [optimizer.state[p] for p in old.parameters()]
    targets, sources, fill = list(new.parameters()), list(old.parameters()), [None, None]
    for p, s in zip(new.parameters(), state, strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            targets.append(torch.full_like(p, math.nan))
            sources.append(s[key])
            fill.append(0.0)
        targets.append(torch.empty_like(s["step"]))
        sources.append(s["step"])
        fill.append(None)
    with torch.no_grad():
        merge_(targets, sources, fill=fill, backend=backend)
    assert torch.equal(new.weight[:3], old.weight) and torch.equal(new.bias[:3], old.bias)
    assert torch.equal(new.weight[3:], fresh[0]) and torch.equal(new.bias[3:], fresh[1])
    assert torch.equal(targets[2][:3], state[0]["exp_avg"]) and targets[2][3:].eq(0).all()
    assert targets[4] == 1


@pytest.mark.parametrize("which", ["target", "source"])
def test_a_plan_refuses_views_of_negated_numbers(which: str) -> None:
    negated, usual = torch.ones(3, dtype=torch.complex64).conj().imag, torch.ones(3)
    pair = (negated, usual) if which == "target" else (usual, negated)
    with pytest.raises(ValueError, match=rf"{which}s(\[0\])+ is a view of negated numbers"):
        MergePlan([pair[0]], [pair[1]])


def test_a_plan_keeps_counts_of_a_generator() -> None:
    target, lists = [torch.zeros(3), torch.zeros(3)], [[torch.ones(3), torch.ones(3)]] * 2
    plan = MergePlan(target, lists, moments=[(0, 1)], counts=(c for c in (1.0, 2.0)))
    for _ in range(2):
        plan()
        assert target[0].tolist() == [1.0] * 3


def test_counts_whose_sum_overflows() -> None:
    targets = [torch.zeros(3), torch.zeros(3)]
    lists = [[torch.full((3,), x), torch.ones(3)] for x in (1.0, 3.0)]
    merge_(targets, lists, moments=[(0, 1)], counts=[1e308, 1e308])
    assert targets[0].tolist() == targets[1].tolist() == [2.0] * 3


@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_moments_are_those_of_the_pooled_data(backend: str) -> None:
    """Means far apart: an average of variances would miss most of the spread."""
    data = [
        torch.randn(n, 6, dtype=torch.float64) * (k + 1) + 5 * k for k, n in enumerate((50, 20))
    ]
    means = [x.mean(0).float() for x in data]
    variances = [x.var(0, correction=0).float() for x in data]
    mean, variance, other = torch.empty(6), torch.empty(6), torch.empty(6)
    lists = [[m, v, m] for m, v in zip(means, variances, strict=True)]
    merge_([mean, variance, other], lists, moments=[(0, 1)], counts=[50, 20], backend=backend)
    pooled = torch.cat(data)
    assert torch.allclose(mean.double(), pooled.mean(0), rtol=1e-5)
    assert torch.allclose(variance.double(), pooled.var(0, correction=0), rtol=1e-5)
    assert torch.equal(other, (means[0] * 0.5) + (means[1] * 0.5))  # weights, not counts


@given(poolings())
@settings(max_examples=60, deadline=None)
def test_moments_give_the_bits_of_the_reference(m: Merge) -> None:
    expected = after(reference, m)
    assert_same_bits(after(cpp, m), expected)
    assert_same_bits(after(plan, m), expected)


# --- what is refused ----------------------------------------------------------------------------

BASE = torch.zeros(8, 4)
REFUSED = {
    "shape": (lambda: merge_([BASE, BASE[0].clone()], [BASE.clone(), torch.zeros(5)]),
              r"targets\[1\] has shape \(4\), but sources\[0\]\[1\] has shape \(5\)"),
    "more rows": (lambda: merge_([torch.zeros(2, 4)], [torch.zeros(3, 4)]), r"targets\[0\] has"),
    "other rank": (lambda: merge_([torch.zeros(4)], [torch.zeros(4, 1)]), r"targets\[0\] has"),
    "uneven rows": (lambda: merge_([BASE], [[BASE[:3].clone()], [BASE[:2].clone()]]),
                    r"sources\[0\]\[0\] has 3 rows, but sources\[1\]\[0\] has 2"),
    "integer into float": (lambda: merge_([torch.zeros(2)], [torch.zeros(2, dtype=torch.int64)]),
                           r"targets\[0\] and sources\[0\]\[0\] have different dtypes"),
    "complex": (lambda: merge_([torch.zeros(2, dtype=torch.cfloat)] , [torch.zeros(2)]),
                r"targets\[0\] has an unsupported dtype"),
    "overlap": (lambda: merge_([BASE[:4]], [[BASE[4:]], [BASE[2:6]]]),
                r"targets\[0\] and sources\[1\]\[0\] share memory"),
    "other pair": (lambda: merge_([BASE[:4], BASE[4:]], [BASE[4:], BASE[:4]]),
                   r"targets\[1\] and sources\[0\]\[0\] share memory"),
    "itself, other type": (lambda: merge_([BASE[0]], [BASE[0].view(torch.float32)[::1].view(
        torch.int32)]), r"different dtypes"),
    "targets": (lambda: merge_([BASE, BASE[1]], [BASE.clone(), BASE[1].clone()]),
                r"targets\[0\] and targets\[1\] share memory"),
    "expanded": (lambda: merge_([torch.zeros(1).expand(3)], [torch.zeros(3)]),
                 r"targets\[0\] has several elements in one place"),
    "count": (lambda: merge_([BASE], [BASE.clone(), BASE.clone()]), r"sources\[0\] has 2 tensors"),
    "no sources": (lambda: merge_([BASE], []), r"sources\[0\] has 0 tensors"),
    "weights": (lambda: merge_([BASE], [BASE.clone()], [0.5, 0.5]), r"weights has 2 numbers"),
    "infinite weight": (lambda: merge_([BASE], [BASE.clone()], [math.inf]), r"weights\[0\] is inf"),
    "keep": (lambda: merge_([BASE], [BASE.clone()], [0.5], keep=math.nan), r"keep is nan"),
    "fill NaN": (lambda: merge_([BASE], [BASE[:1].clone()], fill=math.nan), r"fill is NaN"),
    "fill count": (lambda: merge_([BASE], [BASE[:1].clone()], fill=[1.0, 2.0]), r"fill has 2"),
    "fill type": (lambda: merge_([torch.zeros(3, dtype=torch.uint8)],
                                 [torch.zeros(2, dtype=torch.uint8)], fill=-1),
                  r"fill is -1, which the dtype of targets\[0\] does not hold"),
    "moments range": (lambda: merge_([BASE], [BASE.clone()], moments=[(0, 1)]), r"name target 1"),
    "moments twice": (lambda: merge_([BASE], [BASE.clone()], moments=[(0, 0)]), r"name target 0"),
    "moments sum": (lambda: merge_([torch.zeros(2), torch.ones(2)], [torch.zeros(2), torch.ones(2)],
                                   [0.5], moments=[(0, 1)]), r"sum to 0.5; expected 1"),
    "moments shape": (lambda: merge_([torch.zeros(2), torch.ones(3)],
                                     [torch.zeros(2), torch.ones(3)], moments=[(0, 1)]),
                      r"targets\[0\] and targets\[1\] are a mean and its variance"),
    "counts": (lambda: merge_([BASE], [BASE.clone()], counts=[0]), r"counts is \[0.0\]"),
    "backend": (lambda: merge_([BASE], [BASE.clone()], backend="fast"), r"backend is 'fast'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        call()


# --- parts of one tensor --------------------------------------------------------------------------

PARTS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "columns": lambda x: [x[:, :10], x[:, 10:]],
    "every fourth column": lambda x: [x[:, i::4] for i in range(4)],
    "one column beside rows of the others": lambda x: [x[:, 3], x[:5, :3], x[5:, 4:]],
    "channels": lambda x: list(
        x.view(2, 6, 20).unsqueeze(3).to(memory_format=torch.channels_last).unbind(1)
    ),
    "a triangle of rows and columns": lambda x: [x[0, 1:], x[1:, 0], x[1:, 1:]],
    "steps of two and three": lambda x: [x.flatten().as_strided((3, 2), (2, 3))],
}


@pytest.mark.parametrize("backend", ["reference", "cpp"])
@pytest.mark.parametrize("name", PARTS)
def test_parts_of_one_tensor_are_tensors_of_their_own(name: str, backend: str) -> None:
    whole = torch.arange(240.0).view(12, 20)
    targets = PARTS[name](whole)
    sources = [values(tuple(t.shape), torch.float32, i) for i, t in enumerate(targets)]
    expected = [0.25 * t + s for t, s in zip(targets, sources, strict=True)]
    untouched = whole.numel() - sum(t.numel() for t in targets)
    before = whole.clone()
    merge_(targets, sources, [1.0], keep=0.25, backend=backend)
    assert_same_bits(targets, expected)
    if name != "channels":  # which are a copy
        assert whole.eq(before).sum() >= untouched


def test_a_part_of_a_tensor_is_a_source_of_another() -> None:
    x = values((6, 20), torch.float32, 0)
    expected = torch.cat([x[:, 10:], x[:, 10:]], 1)
    merge_([x[:, :10]], [x[:, 10:]])
    assert torch.equal(x, expected)


MEETING: dict[str, Callable[[Tensor], tuple[list[Tensor], list[Tensor] | None]]] = {
    "columns": lambda x: ([x[:, :11], x[:, 10:]], None),
    "a row and a column": lambda x: ([x[3], x[:, 3]], None),
    "bytes of other elements": lambda x: (
        [x[:, :10], x.view(torch.float64)[:, 4:]],
        None,
    ),
    "a swap": lambda x: ([x[:, :10], x[:, 10:]], [x[:, 10:], x[:, :10]]),
    "a source beside": lambda x: ([x[:, :10]], [x[:, 9:19]]),
    "wide steps": lambda x: ([x.flatten().as_strided((4, 3), (2, 3))], None),
}


@pytest.mark.parametrize("name", MEETING)
def test_parts_that_meet_are_refused(name: str) -> None:
    targets, sources = MEETING[name](values((6, 20), torch.float32, 0))
    with pytest.raises(ValueError, match=r"share memory|several elements in one place"):
        merge_(targets, sources or [t.clone() for t in targets])


def places(x: Tensor) -> list[int]:
    """The byte of every element's beginning."""
    index = torch.zeros((), dtype=torch.int64)
    for size, stride in zip(x.shape, x.stride(), strict=True):
        index = index[..., None] + torch.arange(size) * stride
    return (x.data_ptr() + index.flatten() * x.element_size()).tolist()


@st.composite
def views(draw: st.DrawFn, base: Tensor) -> Tensor:
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.float64]))
    dims = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 4), min_size=dims, max_size=dims))
    strides = draw(st.lists(st.integers(0, 9), min_size=dims, max_size=dims))
    return base.view(dtype).as_strided(sizes, strides, draw(st.integers(0, 12)))


@given(data=st.data())
@settings(max_examples=600, deadline=None)
def test_memory_is_shared_where_an_element_is(data: st.DataObject) -> None:
    """Against sets of bytes."""
    base = torch.zeros(400)
    a, b = data.draw(views(base)), data.draw(views(base))
    bytes_of_a, bytes_of_b = (
        [byte + i for byte in places(x) for i in range(x.element_size())] for x in (a, b)
    )
    twice = [len(set(x)) < len(x) for x in (bytes_of_a, bytes_of_b)]
    meet = bool(set(bytes_of_a) & set(bytes_of_b))
    refused = False
    try:
        merge_([a, b], [torch.ones(a.shape), torch.ones(b.shape)])
    except ValueError as error:
        refused = True
        assert ("several elements" in str(error)) == any(twice)
    assert refused == (meet or any(twice))
    if not refused:
        assert a.eq(1).all() and b.eq(1).all()


def test_a_refused_merge_writes_nothing() -> None:
    targets = [torch.zeros(2), torch.zeros(3)]
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        merge_(targets, [torch.ones(2), torch.ones(4)])
    assert targets[0].eq(0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_target_may_be_its_own_source(layout: str) -> None:
    a, b = values((3, 4, 2, 2), torch.float32, 0), values((3, 4, 2, 2), torch.float32, 1)
    target = laid_out(a, layout)
    merge_([target], [[target], [b]], [0.25, 0.75])
    assert torch.equal(target, 0.25 * a + 0.75 * b)
    mean, variance = laid_out(a, layout), laid_out(a.abs(), layout)
    expected = a.clone(), a.abs()
    lists = [[b, b.abs()], [b, b.abs()]]
    merge_(expected, [[a, a.abs()], lists[0]], moments=[(0, 1)])
    merge_([mean, variance], [[mean, variance], lists[1]], moments=[(0, 1)])
    assert_same_bits([mean, variance], list(expected))


# --- autograd and compilation -------------------------------------------------------------------


def test_grad_mode_is_refused_as_for_leaves() -> None:
    leaf, plain = torch.zeros(2, requires_grad=True), torch.ones(2)
    for call in (
        lambda: merge_([leaf], [plain]),
        lambda: merge_([plain], [leaf]),
        lambda: cpp([leaf], [plain], [1.0], 0.0, [], [], []),
        MergePlan([leaf], [plain]),
    ):
        with pytest.raises(RuntimeError, match=r"(targets\[0\]|sources\[0\]\[0\]) requires grad"):
            call()
    with torch.no_grad():
        merge_([leaf], [plain])
    assert leaf.tolist() == [1, 1] and leaf.requires_grad


def one_shot(targets: list[Tensor], sources: list[Tensor], *rest: object) -> None:
    merge_(targets, sources)


@pytest.mark.parametrize("run", [cpp, plan, one_shot, lambda *a: reference(*a)])
def test_autograd_notices_the_mutation(run: Callable[..., None]) -> None:
    x, saved = torch.ones(2, requires_grad=True), torch.ones(2)
    loss = (x * saved).sum()
    with torch.no_grad():
        run([saved], [torch.zeros(2)], [1.0], 0.0, [], [], [])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("lists", [1, 3])
def test_opcheck(lists: int) -> None:
    targets = [torch.zeros(3, 4), torch.zeros(2, dtype=torch.bfloat16)]
    sources = [torch.randn(t.shape) for t in targets] * lists
    arguments = (targets, sources, [1.0 / lists] * lists, 0.0, [], [], [])
    torch.library.opcheck(torch.ops.edufast.merge_.default, arguments)


def test_compiles_without_graph_breaks() -> None:
    def step(target: Tensor, source: Tensor) -> Tensor:
        merge_([target], [source * 2], keep=0.5)
        return target + 1

    target = torch.ones(4)
    with torch.no_grad():
        out = torch.compile(step, fullgraph=True, backend="aot_eager")(target, torch.ones(4))
    assert target.tolist() == [1.5] * 4 and out.tolist() == [2.5] * 4


@pytest.mark.parametrize("planned", [False, True])
def test_the_reference_is_not_traced(planned: bool) -> None:
    """It looks for overlaps in memory, which tensors in a graph do not have yet."""
    target, source = torch.zeros(3), torch.ones(3)
    run = MergePlan([target], [source], backend="reference")

    def step() -> None:
        run() if planned else merge_([target], [source], backend="reference")

    torch._dynamo.reset()
    refused = "backend is 'reference', which is not traced by torch.compile; expected another"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=refused):
        torch.compile(step, backend="aot_eager", fullgraph=True)()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_plan_compiles_into_one_graph_and_runs_once_a_call(backend: str) -> None:
    """The graph holds the operator with the plan's tensors: it sees that they are written to."""
    target, source = torch.zeros(3), torch.ones(3)
    run = MergePlan([target], [source])

    def step(x: Tensor) -> Tensor:
        run(keep=0.5)
        return x + target

    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(step, backend=counter, fullgraph=True)
    with torch.no_grad():
        outputs = [compiled(source)[0].item() for _ in range(3)]
    assert outputs == [1.5, 1.75, 1.875] and target[0] == 0.875
    assert counter.frame_count == 1
    assert sum("merge_" in str(node.target) for node in counter.graphs[0].graph.nodes) == 1


@pytest.mark.parametrize("planned", [False, True])
def test_a_compiled_merge_has_the_numbers_of_each_call(planned: bool) -> None:
    """What is computed from a float that changes ended torch in an error."""
    source, target = torch.arange(5.0), torch.zeros(5)
    run = MergePlan([target], [source])
    x = torch.ones(5, requires_grad=True)

    def step(x: Tensor, p: float) -> Tensor:
        with torch.no_grad():
            if planned:
                run(keep=1 - p)
            else:
                merge_([target], [source], [2 * p], keep=1 - p)
        return p * x.square().mean()

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for p in (0.1, 0.2, 0.3, 0.9, 0.2):
        found = []
        for f in (compiled, step):
            target.fill_(1)
            found.append((f(x, p).detach(), target.clone()))
        torch.testing.assert_close(*found)


def test_a_compiled_moving_average_of_parameters() -> None:
    """Targets and sources are leaves; new memory of a parameter is seen as without a compiler."""
    model, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    run = MergePlan(list(average.parameters()), list(model.parameters()))
    torch._dynamo.reset()
    compiled = torch.compile(lambda: run(keep=0.75), backend="aot_eager", fullgraph=True)
    expected = [0.75 * a + 0.25 * p for a, p in zip(*map(_tensors, (average, model)), strict=True)]
    with torch.no_grad():
        compiled()
    assert all(map(torch.equal, _tensors(average), expected))
    model.weight.data = torch.full((2, 3), 4.0)
    expected = [0.75 * a + 0.25 * p for a, p in zip(*map(_tensors, (average, model)), strict=True)]
    with torch.no_grad():
        compiled()
    assert all(map(torch.equal, _tensors(average), expected))


def _tensors(module: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


# --- plans --------------------------------------------------------------------------------------


def test_a_plan_notices_other_memory() -> None:
    """The first three are what module.to(), module.half() and a resize do."""
    target, source = torch.nn.Parameter(torch.zeros(3)), torch.ones(3)
    run = MergePlan([target], [source])
    with torch.no_grad():
        run()
        target.data = torch.zeros(3)
        run()
        assert target.tolist() == [1, 1, 1]
        target.data = torch.zeros(3, dtype=torch.float64)
        run(keep=0.5)
        assert target.tolist() == [0.5] * 3
        target.data = torch.zeros(2)
        with pytest.raises(ValueError, match=r"targets\[0\] has shape \(2\)"):
            run()
        target.data = source
        run()  # itself: fine


CHANGES = {  # of (2, 3) float32, in the memory where it is
    "shape": (lambda t: t.view(3, 2), r"targets\[0\] has shape \(3, 2\)"),
    "fewer elements": (lambda t: t[:1], r"targets\[0\] has shape \(1, 3\)"),
    "dtype": (lambda t: t.view(torch.int32), r"different dtypes"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_plan_notices_another_form_of_the_same_memory(change: str) -> None:
    new, message = CHANGES[change]
    target, source = torch.zeros(2, 3), torch.ones(2, 3)
    run = MergePlan([target], [source])
    target.data = new(target.data)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            run()
    assert target.eq(0).all()


def test_a_plan_notices_other_strides_of_the_same_memory() -> None:
    target, source = torch.zeros(3, 3), torch.arange(9.0).view(3, 3)
    run = MergePlan([target], [source])
    target.data = target.data.t()
    run()
    assert torch.equal(target, source)


def test_a_plan_survives_copies() -> None:
    target, source = torch.zeros(3), torch.ones(3)
    run = MergePlan([target], [source])
    twin_target, twin = copy.deepcopy((target, run))
    del run
    twin()
    assert twin_target.tolist() == [1, 1, 1] and target.tolist() == [0, 0, 0]
    pickle.loads(pickle.dumps(twin))()


RUN_BY_THREADS = """
import threading, torch
from edufast.ops import MergePlan
targets, sources = [[f(64, 64)[:, ::2] for _ in range(100)] for f in (torch.zeros, torch.ones)]
plan = MergePlan(targets, [sources])  # which looks at views anew in every run
threads = [threading.Thread(target=lambda: [plan() for _ in range(100)]) for _ in range(3)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
assert all(target.eq(1).all() for target in targets)
"""


def test_threads_may_run_one_plan() -> None:
    subprocess.run([sys.executable, "-c", RUN_BY_THREADS], check=True)


def test_an_unknown_plan_is_refused() -> None:
    with pytest.raises(RuntimeError, match="there is no plan"):
        torch.ops.edufast.merge_plan_run.default(2**40, [1.0], 0.0, [])
