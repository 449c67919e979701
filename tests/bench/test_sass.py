"""Counting machine code: loops, and the cheapest way around them that does what it has to."""

from __future__ import annotations

import pytest

from edufast.bench import sass
from edufast.bench.sass import Cost, Kernel
from edufast.utils.errors import UserError

# A loop around 0x20 to 0xa0 with a rare branch (0x60) and an inner loop (0x40); behind the end a
# block that jumps back into the loop's middle, as a compiler places what seldom runs.
PROGRAM = """
    S2R R0, SR_TID.X
    MOV R1, RZ
    MUFU.EX2 R2, R3
    @P0 BRA 0xc0
    LDGSTS.E.BYPASS.128 [R4], desc[UR4][R6.64]
    @P1 BRA 0x40
    @P2 BRA 0x90
    MUFU.EX2 R5, R6
    FADD R5, R5, R6
    STG.E.128 desc[UR4][R6.64], R8
    @P3 BRA 0x20
    EXIT
    FMUL R1, R1, R1
    BRA 0x40
"""


@pytest.fixture
def kernel():
    lines = [line.strip() for line in PROGRAM.strip().splitlines()]
    return Kernel({16 * i: line for i, line in enumerate(lines)})


def test_loops_are_nested_and_a_jump_back_from_outside_is_none(kernel):
    (outer,) = kernel.loops
    (inner,) = outer.inner
    assert (outer.header, inner.header) == (0x20, 0x40)
    assert inner.blocks == {0x40} and not inner.inner


def test_the_cheapest_way_passes_by_what_is_not_asked_for(kernel):
    (outer,) = kernel.loops
    assert kernel.cost(outer, {}, Cost()) == Cost(7, 1, 1, 0, 1)
    assert kernel.cost(outer, {}, Cost(exponentials=2)) == Cost(9, 2, 1, 0, 1)
    assert kernel.cost(outer.inner[0], {}, Cost()) == Cost(2, 0, 1)


def test_inner_loops_cost_what_the_caller_says(kernel):
    (outer,) = kernel.loops
    eight = {outer.inner[0].header: Cost(16, 0, 8)}
    assert kernel.cost(outer, eight, Cost(copies=8)) == Cost(21, 1, 8, 0, 1)
    with pytest.raises(ValueError, match="no way around the loop at 0x20"):
        kernel.cost(outer, eight, Cost(copies=9))


def test_widths_of_accesses(kernel):
    (outer,) = kernel.loops
    assert kernel.widths("STG", outer.blocks) == {128}
    assert kernel.widths("LDGSTS", outer.blocks) == {128}


def test_a_tool_that_is_nowhere_is_one_line():
    with pytest.raises(UserError, match="cunothing was not found"):
        sass.tool("cunothing")
