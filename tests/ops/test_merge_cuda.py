"""merge_ on CUDA: its device code emulated on the CPU, behind the operator's checks and table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edufast.ops.reference.merge import Merge, reference
from tests.ops.cuda_emulation.driver import load_merge
from tests.ops.merge_cases import after, assert_same_bits, merges, poolings


@pytest.fixture(scope="module", autouse=True)
def emulation() -> None:
    load_merge()


def emulated(*arguments: object) -> None:
    torch.ops.edufast_emulated.merge_.default(*arguments)


@given(st.one_of(merges(), poolings()))
@settings(max_examples=200, deadline=None)
def test_cuda_gives_the_bits_of_the_reference(m: Merge) -> None:
    assert_same_bits(after(emulated, m), after(reference, m))


def test_more_tensors_than_a_table_holds() -> None:
    """The emulation's tables hold 32 entries of one list, and three blocks share all tiles."""
    targets = [torch.zeros(1 + 700 * (i % 40), dtype=torch.float32) for i in range(100)]
    sources = [torch.randn(t.shape, dtype=torch.float64).to(torch.bfloat16) for t in targets]
    m = Merge(targets, sources, [1.0], 0.0, [], [], [])
    assert_same_bits(after(emulated, m), [s.float() for s in sources])


def test_moments_at_the_end_of_a_table() -> None:
    """Their two entries are never torn apart: 31 tensors leave room for one entry."""
    singles = [torch.zeros(3) for _ in range(31)]
    pair = [torch.zeros(3), torch.zeros(3)]
    sources = [torch.full((3,), float(i)) for i in range(33)]
    moments = [0, 1, 2, 3]
    m = Merge(singles + pair, sources, [1.0], 0.0, [], moments, [])
    assert_same_bits(after(emulated, m), sources)
