"""Putting targets together, eager and compiled."""

from __future__ import annotations

import pytest
import torch

from edufast.teachers.targets import TARGETS
from tests.teachers.targets.cases import MERGED, teachers


def test_logits_stand_at_their_columns_and_nobodys_are_minus_infinity():
    given = teachers()
    target = given.assemble(given.logits)
    assert torch.equal(target[:, [5, 3]], given.logits[1])
    assert target[:, 4].isneginf().all() and target[:, [0, 1, 2, 3, 5, 6]].isfinite().all()


def test_who_owns_a_sample():
    owned = teachers().owned
    assert owned.int().argmax(1)[[0, 1, 2, 4, 5]].tolist() == [0, 1, 2, 1, 0]
    assert owned.sum(1).tolist() == [1, 1, 1, 0, 1, 1]


def test_shares_of_the_rest_are_as_given():
    given = teachers()
    rest = torch.tensor([0.2, 0.3, 0.5]).expand(6, 3)
    p = torch.softmax(given.gated(rest, 0.5, 2.0) / 2.0, 1)
    assert p[3, [0, 1, 2]].sum() == pytest.approx(0.2)  # nobody's
    assert p[3, 6] == pytest.approx(0.5)


@pytest.mark.parametrize("target", MERGED)
def test_no_target_reads_the_device_or_breaks_the_graph_when_compiled(target):
    merge = TARGETS.find(target)
    compiled = torch.compile(merge, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(teachers(), 3.0), merge(teachers(), 3.0))
