from __future__ import annotations

import math

import pytest
import torch

from edufast.models.heads import ReferenceHead, head_flops
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


@pytest.mark.parametrize("shape", [(12, 5, 7), (12, 19), (12,)])
@pytest.mark.parametrize("order", ["grid", "pool_first", "paper", "linear"])
def test_head_flops_are_counted_ones(shape: tuple[int, ...], order: str) -> None:
    size = shape[1:]
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        ReferenceHead(12, 6, 3, order, size=size).eval()(torch.randn(1, *shape))
    assert head_flops(12, size, 6, 3, order) == counter.get_total_flops()


# Even and odd sides, sides below the grid's, tokens, vectors.
@pytest.mark.parametrize(
    ("size", "places"),
    [((32, 32), 16), ((14, 7), 3 * 3), ((5, 2), 2 * 2), ((50,), 12), ((9,), 9), ((), 1)],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_grid_head_reads_the_means_of_places(
    size: tuple[int, ...], places: int, channels_last: bool
) -> None:
    head = ReferenceHead(6, 99, 3, "grid", size=size, channels_last=channels_last).eval()
    x = torch.randn(4, 6, *size)
    vector = head.embed(x.movedim(1, -1) if channels_last else x)
    assert vector.shape == (4, 6 * places) == (4, head.linear.in_features)
    scale = math.sqrt(places * (1 + head.norm.eps))  # of the vector, and of fresh statistics
    if len(size) == 2:
        down, across = (math.ceil(side / 4) for side in size)
        torch.testing.assert_close(vector[:, 0] * scale, x[:, 0, :down, :across].mean((1, 2)))
    elif size:
        window = math.ceil(size[0] / 16)
        torch.testing.assert_close(vector[:, 1] * scale, x[:, 0, window : 2 * window].mean(1))


def test_head_order_is_checked() -> None:
    with pytest.raises(ValueError, match="head is 'last'; expected one of grid, pool_first, paper"):
        ReferenceHead(3, 3, 3, "last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="head is 'last'"):
        student(head="last")
