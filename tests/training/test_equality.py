"""Two ranks train as one process does, whatever the algorithm, the target and the curriculum."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edufast.data import Augment
from edufast.utils import ranks
from edufast.utils.errors import Interrupted
from tests.pair import on_ranks
from tests.training.equality import CASES, difference, outcome, outcomes

DOCS = Path(__file__).parents[2] / "docs" / "distributed.md"
# Of the weights, relative to the largest of a tensor: rounding errors after eight steps.
BOUND = 2e-4


def table() -> str:
    """What is equal to what, for docs/distributed.md."""
    rows = "\n".join(f"| {name} | yes |" for name in CASES)
    return f"| training | two processes = one |\n|---|---|\n{rows}\n"


@pytest.fixture(scope="module")
def trained():
    """By name: the outcome on one rank, and on each of two."""
    names = list(CASES)
    first, second = on_ranks(outcomes, names)
    return {name: (outcome(CASES[name]), first[name], second[name]) for name in names}


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_as_one(name, trained):
    alone, first, second = trained[name]
    assert difference(first, second) == 0
    assert difference(alone, first) < BOUND
    assert torch.equal(alone["costs"], first["costs"])


def test_the_table_in_the_documentation_is_what_is_tested():
    assert table() in DOCS.read_text("utf-8")


def test_the_bound_tells_rounding_from_other_views():
    case = CASES["target none"]
    other = replace(case, training=replace(case.training, augment=Augment(pad=2, flip=False)))
    assert difference(outcome(case), outcome(other)) > 10 * BOUND


NAME = "algorithm crd, target routed"  # has adapters, memories, and draws at random
RESUMED = CASES[NAME]


def resumed(checkpoint: Path) -> dict[str, torch.Tensor]:
    return outcome(RESUMED, checkpoint=checkpoint)


def interrupted(checkpoint: Path, rank: int) -> tuple[int, int, int]:
    """Where all ranks stopped after the one had a signal in the fourth step."""
    school, steps = RESUMED.school(checkpoint=checkpoint), []
    train_step, ranks._ASK_EVERY = school.train_step, 0.0  # ask at every step

    def step(batch):
        steps.append(None)
        if len(steps) == 4 and ranks.rank() == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(batch)

    school.train_step = step
    try:
        school.fit()
    except Interrupted:
        return school.progress.grade, school.progress.epoch, school.progress.step
    finally:
        ranks._ASK_EVERY = 1.0
    raise AssertionError("it was not interrupted")


def test_a_checkpoint_of_two_ranks_goes_on_in_one_process(tmp_path):
    places = on_ranks(interrupted, tmp_path / "checkpoint", 1)
    assert places[0] == places[1]
    assert difference(outcome(RESUMED), resumed(tmp_path / "checkpoint")) < BOUND


def test_two_ranks_that_are_stopped_and_go_on_end_with_the_same_bits(tmp_path, trained):
    """A soak of seconds; `make soak` takes an hour, and kills, too."""
    on_ranks(interrupted, tmp_path / "checkpoint", 0)
    for expected, found in zip(
        trained[NAME][1:], on_ranks(resumed, tmp_path / "checkpoint"), strict=True
    ):
        assert difference(expected, found) == 0


def test_a_checkpoint_of_one_process_goes_on_on_two_ranks(tmp_path):
    assert interrupted(tmp_path / "checkpoint", 0) == (1, 1, 0)
    first, second = on_ranks(resumed, tmp_path / "checkpoint")
    assert difference(first, second) == 0
    assert difference(outcome(RESUMED), first) < BOUND
