from __future__ import annotations

import math

import pytest
import torch

from edufast.heads import ReferenceHead, head_flops
from tests.student_cases import student


@pytest.mark.parametrize("shape", [(12, 5, 7), (9, 12), (12,)])
@pytest.mark.parametrize("order", ["pool_first", "paper"])
def test_head_takes_maps_tokens_and_vectors(shape: tuple[int, ...], order: str) -> None:
    head = ReferenceHead(12, 6, 3, order, channels_last=len(shape) == 2)
    assert head(torch.randn(4, *shape)).shape == (4, 3)


@pytest.mark.parametrize("shape", [(12, 5, 7), (9, 12), (12,)])
def test_both_orders_are_the_same_function_up_to_statistics(shape: tuple[int, ...]) -> None:
    paper, first = (
        ReferenceHead(12, 6, 3, order, channels_last=len(shape) == 2).eval()
        for order in ("paper", "pool_first")
    )
    paper.norm.running_mean.normal_()
    paper.norm.running_var.uniform_(0.5, 2)
    first.load_state_dict(paper.state_dict())
    x = torch.randn(4, *shape)
    torch.testing.assert_close(first(x), paper(x))


@pytest.mark.parametrize("shape", [(12, 5, 7), (12, 9), (12,)])
@pytest.mark.parametrize("order", ["pool_first", "paper", "linear"])
def test_head_flops_are_counted_ones(shape: tuple[int, ...], order: str) -> None:
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        ReferenceHead(12, 6, 3, order).eval()(torch.randn(1, *shape))
    assert head_flops(12, math.prod(shape) // 12, 6, 3, order) == counter.get_total_flops()


def test_head_order_is_checked() -> None:
    with pytest.raises(ValueError, match="head='last': expected one of pool_first, paper, linear"):
        ReferenceHead(3, 3, 3, "last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="head='last'"):
        student(head="last")
