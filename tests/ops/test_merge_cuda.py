"""merge_ on CUDA: on a GPU if there is one, and emulated on the CPU everywhere.

The emulation has the device code behind the operator's checks and table, in small tables: 32
entries of one list.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edufast.ops import MergePlan, merge_
from edufast.ops.reference.merge import Merge, reference
from tests.ops.cuda_emulation.driver import load_operator
from tests.ops.devices import on_gpu
from tests.ops.merge_cases import after, assert_same_bits, merges, poolings

HERE = ("emulated", pytest.param("gpu", marks=on_gpu("merge_")))


def merged(m: Merge, where: str) -> list[Tensor]:
    if where == "gpu":
        return after(torch.ops.edufast.merge_.default, m, "cuda")
    load_operator("merge")
    return after(torch.ops.edufast_emulated.merge_.default, m)


@pytest.mark.parametrize("where", HERE)
@given(m=st.one_of(merges(), poolings()))
@settings(max_examples=200, deadline=None)
def test_cuda_gives_the_bits_of_the_reference(where: str, m: Merge) -> None:
    assert_same_bits(merged(m, where), after(reference, m))


@pytest.mark.parametrize("where", HERE)
def test_more_tensors_than_a_table_holds(where: str) -> None:
    """Emulated, three blocks share all tiles."""
    count = 100 if where == "emulated" else 3000
    targets = [torch.zeros(1 + 700 * (i % 40), dtype=torch.float32) for i in range(count)]
    sources = [torch.randn(t.shape, dtype=torch.float64).to(torch.bfloat16) for t in targets]
    m = Merge(targets, sources, [1.0], 0.0, [], [], [])
    assert_same_bits(merged(m, where), [s.float() for s in sources])


@pytest.mark.parametrize("where", HERE)
def test_moments_at_the_end_of_a_table(where: str) -> None:
    """Their two entries are never torn apart: the tensors before them leave room for one entry."""
    count = 31 if where == "emulated" else 975
    singles = [torch.zeros(3) for _ in range(count)]
    pair = [torch.zeros(3), torch.zeros(3)]
    sources = [torch.full((3,), float(i)) for i in range(count + 2)]
    moments = [0, 1, 2, 3]
    m = Merge(singles + pair, sources, [1.0], 0.0, [], moments, [])
    assert_same_bits(merged(m, where), sources)


@on_gpu("merge_")
def test_gpu_graph_of_a_plan() -> None:
    """Captured once, replayed on new numbers."""
    targets = [torch.zeros(5000, device="cuda"), torch.zeros(7, device="cuda")]
    sources = [torch.zeros_like(t) for t in targets]
    plan = MergePlan(targets, sources)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        plan(keep=0.5)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan(keep=0.5)
    for number in (1.0, 3.0):
        for s, t in zip(sources, targets, strict=True):
            s.fill_(number)
            t.fill_(-1.0)
        graph.replay()
        for t in targets:
            assert torch.equal(t, torch.full_like(t, (number - 1.0) / 2))


@on_gpu("merge_")
def test_gpu_offsets_beyond_two_to_the_31_elements() -> None:
    size = 2**31 + 100
    source = torch.zeros(size, dtype=torch.uint8, device="cuda")
    source[-1] = 7
    target = torch.ones_like(source)
    merge_([target], [source])
    assert target[-1] == 7 and int(target.count_nonzero()) == 1


@on_gpu("merge_")
def test_gpu_never_waits() -> None:
    targets, sources = ([torch.ones(5000, device="cuda") for _ in range(3)] for _ in range(2))
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        merge_(targets, sources, keep=0.5)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
