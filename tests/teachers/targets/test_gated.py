"""The gated target is the mixture that it claims to be."""

from __future__ import annotations

import pytest
import torch

from edufast.teachers.targets.gated import gated
from tests.teachers.targets.cases import OWNERS, mixture, soft, teachers


@pytest.mark.parametrize("leak", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_owner_keeps_its_mass_and_the_others_share_the_rest_equally(temperature, leak):
    def weight(row, k):
        if OWNERS[row] == -1:
            return 1 / 3
        return 1 - leak if OWNERS[row] == k else leak / 2

    found = soft(gated(teachers(), temperature, leak), temperature)
    torch.testing.assert_close(found, mixture(teachers(), temperature, weight), rtol=0, atol=1e-7)


def test_a_lone_teacher_has_the_whole_mass():
    expected = mixture(teachers(1), 2.0, lambda row, k: 1.0)
    torch.testing.assert_close(soft(gated(teachers(1), 2.0), 2.0), expected)


def test_a_leak_out_of_range_is_told():
    for leak in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"leak is {leak}; expected a number in \[0, 1\)"):
            gated(teachers(), 1.0, leak)
