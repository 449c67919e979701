"""The floor of a training step: forward and backward passes, and nothing else."""

from __future__ import annotations

import torch

from edufast.bench.train.floor import Floor
from edufast.bench.train.ladder import LoopOptions


def spied(floor: Floor) -> list[tuple[int, int]]:
    """The teachers that run from now on, each with its number of images."""
    calls, logits = [], floor.faculty.logits

    def spy(teacher: int, images: torch.Tensor) -> torch.Tensor:
        calls.append((teacher, len(images)))
        return logits(teacher, images)

    floor.faculty.logits = spy
    return calls


def test_a_step_computes_but_changes_nothing(setting):
    floor = Floor(setting, LoopOptions())
    before = [parameter.clone() for parameter in floor.student.parameters()]
    backward = []
    for parameter in floor.student.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: backward.append(p.grad.norm()))
    logits = floor.step(next(floor.batches()))
    assert logits.shape == (12, 6) and not logits.requires_grad
    assert len(backward) == len(before) and all(norm > 0 for norm in backward)
    for old, new in zip(before, floor.student.parameters(), strict=True):
        assert torch.equal(old, new) and new.grad is None


def test_each_live_teacher_sees_its_share_of_the_batch(setting):
    floor = Floor(setting, LoopOptions())
    calls = spied(floor)
    floor.step(next(floor.batches()))
    assert calls == [(0, 4), (1, 4), (2, 4)]


def test_cached_teachers_do_not_run(setting):
    floor = Floor(setting, LoopOptions(cache="warm"))
    calls = spied(floor)
    floor.step(next(floor.batches()))
    assert calls == []
