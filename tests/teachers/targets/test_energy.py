"""The energy-gated target keeps the owner's mass, and the joint target's ratios elsewhere."""

from __future__ import annotations

import pytest
import torch

from edufast.teachers.targets.energy import energy
from edufast.teachers.targets.joint import joint
from tests.teachers.targets.cases import OWNERS, mixture, soft, teachers


@pytest.mark.parametrize("leak", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_others_share_the_rest_by_the_sum_of_their_exponentials(temperature, leak):
    given = teachers()

    def weight(row, k):
        owner = OWNERS[row]
        mass = [float((t[row] / temperature).exp().sum()) for t in given.logits]
        others = sum(m for j, m in enumerate(mass) if j != owner)
        if owner == -1:
            return mass[k] / others
        return 1 - leak if owner == k else leak * mass[k] / others

    found = soft(energy(given, temperature, leak), temperature)
    torch.testing.assert_close(found, mixture(given, temperature, weight), rtol=0, atol=1e-7)


def test_outside_the_owners_slice_ratios_are_those_of_the_joint_target():
    target, side_by_side = energy(teachers(), 4.0), joint(teachers(), 4.0)
    row, columns = 0, [5, 3, 6]  # owned by teacher 0
    gap = (target - side_by_side)[row, columns]
    torch.testing.assert_close(gap, gap[:1].expand(3))


def test_a_lone_teacher_has_the_whole_mass():
    expected = mixture(teachers(1), 2.0, lambda row, k: 1.0)
    torch.testing.assert_close(soft(energy(teachers(1), 2.0), 2.0), expected)


def test_logits_of_any_size_give_numbers():
    assert not energy(teachers(scale=1e4), 0.05).isnan().any()
