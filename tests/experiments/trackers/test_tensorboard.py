"""TensorBoard, the real one: what is logged can be read from its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edufast.experiments.run import teach
from edufast.experiments.run_setup import Setup
from edufast.experiments.student_training import train_student
from edufast.experiments.trackers.registry import tracking
from tests.experiments.small import QUIET, small_config
from tests.experiments.trackers.events import ALL, CONFIG
from tests.tiny import tiny_data

pytest.importorskip("tensorboard")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Of a run's folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    names = read.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in read.Scalars(name)] for name in names}


def test_curves_are_those_of_the_events(tmp_path):
    with tracking(["tensorboard"], tmp_path, CONFIG, pytest.fail) as (listener,):
        for event in ALL:
            listener(event)
    found = curves(tmp_path)
    assert found["education-0/loss"] == [(320, 2.0), (640, 1.0)]
    assert found["education-0/accuracy"] == [(640, 0.5)]
    assert found["teacher-2/accuracy"] == [(100, 0.75)]


def test_a_run_draws_every_training_and_goes_on_when_it_is_opened_again(tmp_path):
    config = small_config("education", "scratch", export=False)
    for name in ("education", "scratch"):
        setup = Setup(config, tmp_path, QUIET, lambda _: tiny_data(), trackers=["tensorboard"])
        with setup.opened():
            train_student(setup, setup.methods[name], 0, teach(setup))
    found = curves(tmp_path)
    log = setup.folder.log()
    for name in ("education", "scratch"):
        epochs = log.methods[name].trials[0].epochs
        drawn = found[f"{name}-0/accuracy"]
        assert [samples for samples, _ in drawn] == [epoch.samples for epoch in epochs]
        assert [value for _, value in drawn] == pytest.approx([e.accuracy for e in epochs])
        assert found[f"{name}-0/loss"][-1][0] == epochs[-1].samples
    assert found["teacher-0/accuracy"] and found["teacher-1/accuracy"]
