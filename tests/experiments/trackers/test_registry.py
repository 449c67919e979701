"""Trackers by name: what happens where one is missing, cannot begin, or fails."""

from __future__ import annotations

import sys

import pytest

from edufast.experiments.trackers.registry import TRACKERS, check_trackers, tracking
from edufast.utils.errors import UserError
from edufast.utils.extras import MissingPackageError
from tests.experiments.small import small_setup
from tests.experiments.trackers.events import ALL, CONFIG, EPOCH


class Failing:
    """Fails at its second point, and when it is closed."""

    def __init__(self, folder, identity, config):
        self.points = 0

    def log(self, values, samples):
        self.points += 1
        if self.points > 1:
            raise ConnectionError("no\nnetwork")

    def close(self):
        raise TimeoutError("still none")


def test_a_tracker_that_fails_is_told_once_and_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "failing", Failing)
    told = []
    with tracking(["failing"], tmp_path, CONFIG, told.append) as (listener,):
        for event in [*ALL, EPOCH]:
            listener(event)
    assert told == [
        "--log failing: ConnectionError: no network; going on without it",
        "--log failing: TimeoutError: still none; going on without it",
    ]


def test_one_that_is_named_twice_draws_once(tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "failing", Failing)
    with tracking(["failing", "failing"], tmp_path, CONFIG, lambda _: None) as listeners:
        assert len(listeners) == 1


def test_one_that_cannot_begin_is_told_in_one_line_and_the_others_end(tmp_path, monkeypatch):
    closed = []

    class Fine(Failing):
        def close(self):
            closed.append(True)

    def refusing(*_):
        raise RuntimeError("no account:\nlog in first")

    monkeypatch.setitem(TRACKERS, "fine", Fine)
    monkeypatch.setitem(TRACKERS, "refusing", refusing)
    with (
        pytest.raises(UserError, match=r"^--log refusing: no account: log in first$"),
        tracking(["fine", "refusing"], tmp_path, CONFIG, pytest.fail),
    ):
        raise AssertionError("it began")
    assert closed == [True]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_named_with_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with (
        pytest.raises(MissingPackageError, match=rf"--log {name} needs .*'edufast\[{name}\]'"),
        tracking([name], tmp_path, CONFIG, pytest.fail),
    ):
        raise AssertionError("it began")


def test_an_unknown_name_is_told_before_anything_is_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--log is 'tensorbord'; did you mean 'tensorboard'"):
        check_trackers(["wandb", "tensorbord"])


def test_without_trackers_a_folder_is_as_before(tmp_path):
    with small_setup(tmp_path, "education").opened():
        pass
    assert not (tmp_path / "tracked").exists() and not (tmp_path / "tensorboard").exists()
