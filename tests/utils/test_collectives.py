"""Tensors of two ranks, and of one."""

from __future__ import annotations

import torch

from edufast.utils import collectives, ranks
from tests.pair import on_ranks

WHOLE = torch.arange(5 * 3, dtype=torch.float32).view(5, 3)
FACTORS = WHOLE.sin()


def gathered(total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All rows, and the gradient of each rank's own."""
    own = WHOLE[:total][ranks.own_rows()].clone().requires_grad_()
    rows = collectives.gather_rows(own, total)
    (rows * FACTORS[:total]).sum().backward()
    return rows.detach(), own.grad


def test_rows_are_gathered_in_the_order_of_the_batch():
    for total in (4, 5, 1):  # shared evenly, not evenly, and with nothing for the second rank
        for rank, (rows, _) in enumerate(on_ranks(gathered, total)):
            assert torch.equal(rows, WHOLE[:total]), rank


def test_the_mean_of_the_ranks_gradients_is_that_of_the_whole():
    for rank, (_, gradient) in enumerate(on_ranks(gathered, 5)):
        assert torch.equal(gradient, 2 * FACTORS[rank::2])


def columns() -> list[torch.Tensor]:
    own = WHOLE[ranks.own_rows()]
    return collectives.gather_columns([own, own[:, :1], own[:, :0]], len(WHOLE))


def test_several_tensors_are_gathered_at_once():
    for parts in (*on_ranks(columns), columns()):
        assert all(map(torch.equal, parts, [WHOLE, WHOLE[:, :1], WHOLE[:, :0]]))


def of_group(group: slice) -> torch.Tensor:
    at = range(len(WHOLE))[ranks.own_rows()]
    own = [i for i, row in enumerate(at) if row in range(len(WHOLE))[group]]
    part = slice(own[0], own[-1] + 1) if own else slice(0, 0)
    rows = WHOLE[ranks.own_rows()][part]
    return collectives.gather_group(rows, part, len(at), group, len(WHOLE))


def test_the_rows_of_a_group_are_gathered_wherever_they_are():
    for group in (slice(0, 5), slice(1, 4), slice(2, 3), slice(3, 3)):
        for rows in (*on_ranks(of_group, group), of_group(group)):
            assert torch.equal(rows, WHOLE[group])


def summed() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.full((2,), 1.0 + ranks.rank(), requires_grad=True)
    total = collectives.all_sum(x)
    (total * (3.0 + ranks.rank())).sum().backward()
    return total.detach(), x.grad, collectives.all_sum(torch.tensor(2**40))


def test_a_sum_is_that_of_all_and_its_gradient_too():
    for total, gradient, count in on_ranks(summed):
        assert total.tolist() == [3.0, 3.0] and gradient.tolist() == [7.0, 7.0]
        assert count.item() == 2**41
    assert [x.tolist() for x in summed()] == [[1.0, 1.0], [3.0, 3.0], 2**40]


def averaged() -> list[torch.Tensor]:
    image = torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last) * ranks.rank()
    found = [image, torch.tensor(float(ranks.rank())), torch.ones(3, dtype=torch.float64)]
    collectives.average_(found)
    return found


def test_tensors_of_several_types_and_layouts_are_averaged_in_place():
    for image, scalar, double in on_ranks(averaged):
        assert torch.equal(image, torch.full((2, 3, 4, 4), 0.5)) and scalar.item() == 0.5
        assert image.is_contiguous(memory_format=torch.channels_last)
        assert double.dtype == torch.float64 and double.tolist() == [1, 1, 1]
    assert averaged()[1].item() == 0


def shared() -> tuple[torch.Tensor, float]:
    torch.manual_seed(ranks.rank())
    weights = torch.randn(3)
    collectives.broadcast_([weights])
    collectives.share_random_state(torch.device("cpu"))
    return weights, torch.rand(()).item()


def test_weights_and_random_numbers_are_those_of_the_first_rank():
    (first, number), (second, other) = on_ranks(shared)
    torch.manual_seed(0)
    assert torch.equal(first, torch.randn(3)) and torch.equal(second, first)
    assert number == other == torch.rand(()).item()


def compiled() -> list[torch.Tensor]:
    def loss(x: torch.Tensor) -> torch.Tensor:
        rows = collectives.gather_rows(x.sin(), len(WHOLE))
        return (rows.cumsum(0) * FACTORS).sum() + collectives.all_sum(x.cos().sum(0)).sum()

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        own = WHOLE[ranks.own_rows()].clone().requires_grad_()
        value = function(own)
        value.backward()
        found += [value.detach(), own.grad]
    return found


def test_compiled_code_gathers_and_sums_alike():
    for value, gradient, same_value, same_gradient in on_ranks(compiled):
        torch.testing.assert_close(same_value, value)
        torch.testing.assert_close(same_gradient, gradient)
