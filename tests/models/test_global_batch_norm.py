"""Batch norm over the images of two ranks is that of one process over all of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from edufast.models.global_batch_norm import batch_norms, global_statistics
from edufast.utils import ranks
from edufast.utils.collectives import average_, gather_rows
from edufast.utils.errors import UserError
from tests.pair import on_ranks


def layers() -> list[tuple[nn.Module, tuple[int, ...]]]:
    return [
        (nn.BatchNorm2d(3), (5, 3, 4, 4)),
        (nn.BatchNorm1d(3), (5, 3)),
        (nn.BatchNorm1d(3, affine=False), (5, 3, 7)),
        (nn.BatchNorm3d(3, momentum=None), (5, 3, 2, 2, 2)),
        (nn.BatchNorm2d(3, track_running_stats=False), (5, 3, 4, 4)),
    ]


def normalised(which: int, offset: float = 0.0, backend: str | None = None) -> list[torch.Tensor]:
    """Two steps on five rows: what comes out, the gradients, and the state."""
    torch.manual_seed(0)
    layer, shape = layers()[which]
    run = layer.__call__ if backend is None else torch.compile(lambda x: layer(x), backend=backend)
    found = []
    for _ in range(2):
        whole, factors = torch.randn(shape) + offset, torch.randn(shape)
        x = whole[ranks.own_rows()].clone().requires_grad_()
        with global_statistics(batch_norms(layer)):
            y = gather_rows(run(x), len(whole))
        layer.zero_grad()
        (y * factors).sum().backward()
        gradients = [p.grad for p in layer.parameters()]
        average_(gradients)
        # A loss of the mean over ranks: each has N times the gradient of its own rows.
        own = gather_rows(x.grad / ranks.size(), len(whole))
        found += [y.detach(), own, *(g.clone() for g in gradients)]
    return [*found, *(b.clone() for b in layer.state_dict().values())]


@pytest.mark.parametrize("which", range(len(layers())))
def test_two_ranks_normalise_as_one_process(which):
    expected = normalised(which)
    for found in on_ranks(normalised, which):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_compiled_it_has_the_same_gradients():
    """Although the running mean, from which distances are, has changed by the backward pass."""
    expected = normalised(0)
    for found in on_ranks(normalised, 0, 0.0, "aot_eager_decomp_partition"):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_values_far_from_zero_have_their_variance():
    """From the second step on: distances are those from the running mean."""
    expected = normalised(3, offset=1e3)
    for found in on_ranks(normalised, 3, 1e3):
        per_step = (len(expected) - 5) // 2
        for a, b in zip(found[per_step:-5], expected[per_step:-5], strict=True):
            torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3)


def in_eval_mode() -> tuple[bool, bool]:
    layer = nn.BatchNorm2d(3).eval()
    x = torch.randn(2, 3, 4, 4) + ranks.rank()
    before, expected = copy.deepcopy(layer.state_dict()), layer(x)
    with global_statistics([layer]):
        found = layer(x)
    after = layer.state_dict()
    unchanged = all(torch.equal(before[name], after[name]) for name in before)
    return torch.equal(found, expected) and unchanged, type(layer) is nn.BatchNorm2d


def test_eval_mode_and_the_layer_itself_stay_as_they_are():
    assert on_ranks(in_eval_mode) == [(True, True)] * 2
    assert in_eval_mode() == (True, True)


class Activated(nn.BatchNorm2d):
    """As in timm: its forward pass does more."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def refused() -> str:
    try:
        batch_norms(nn.Sequential(nn.Conv2d(3, 3, 1), Activated(3)))
    except UserError as error:
        return str(error)
    return ""


def test_a_layer_with_code_of_its_own_is_refused_on_several_ranks():
    for message in on_ranks(refused):
        assert message.startswith("1 of the student is a Activated, whose statistics on 2 ranks")
    assert refused() == ""


def test_one_process_needs_nothing():
    assert batch_norms(nn.BatchNorm2d(3)) == []
