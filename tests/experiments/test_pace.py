"""How long a run takes is its arithmetic at a speed that is tried out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edufast.data import Augment
from edufast.data.folder import file_samples
from edufast.experiments import pace
from edufast.experiments.cost import Cost
from edufast.experiments.pace import Pace, expected_duration
from edufast.experiments.recipe import parse_recipe
from tests.data.folders import make_pictures
from tests.experiments.recipes import content
from tests.tiny import tiny_data

TEACHERS = [{"model": "resnet14", "classes": "0-2"}, {"model": "resnet14", "classes": "3-5"}]
RECIPE = parse_recipe(content(teachers=TEACHERS))


def fresh() -> Pace:
    return Pace("cpu", RECIPE.training)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every step takes a second; a list of how many images each step had."""
    images: list[int] = []

    def a_second(step: Callable[[], None], *_: object) -> float:
        counted: list[int] = []
        hook = torch.nn.modules.module.register_module_forward_pre_hook(
            lambda _, inputs: counted.append(len(inputs[0]))
        )
        step()
        hook.remove()
        images.append(counted[0])
        return 1.0

    monkeypatch.setattr(pace, "_seconds", a_second)
    return images


def test_each_part_takes_its_arithmetic_at_its_speed(timed: list[int]) -> None:
    one = Cost(0, 10**12, (10**12, 10**12), (0, 0), (0, 0))
    two = Cost(0, 2 * 10**12, (10**12, 0), (0, 10**12), (0, 0))
    first = expected_duration(RECIPE, one, 16, fresh())
    second = expected_duration(RECIPE, two, 16, fresh())
    assert first.teaching[0] == first.teaching[1] == second.teaching[0] > second.teaching[1] == 0
    assert second.learning > 2 * first.learning > 0
    assert second.total == second.teaching[0] + second.learning


def test_loading_comes_on_top_for_each_image_that_is_trained_on(timed: list[int]) -> None:
    cost = Cost(30, 10**12, (10**12, 10**12), (0, 0), (10, 20))
    without = expected_duration(RECIPE, cost, 16, fresh())
    loaded = expected_duration(RECIPE, cost, 16, fresh(), loading=100.0)
    assert loaded.learning == pytest.approx(without.learning + 3000)
    assert loaded.teaching[0] == pytest.approx(without.teaching[0] + 1000)
    assert loaded.teaching[1] == pytest.approx(without.teaching[1] + 2000)


def test_loading_is_timed_over_the_images_that_were_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads: half of the processors' time passes for an image."""
    monkeypatch.setattr(pace, "_LOADING_SECONDS", 0.05)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    images: list[int] = []
    whole = pace.Loader.epoch

    def counted(self: object, epoch: int) -> object:
        for batch in whole(self, epoch):
            images.append(len(batch.labels))
            yield batch

    monkeypatch.setattr(pace.Loader, "epoch", counted)
    monkeypatch.setattr(pace.time, "process_time", lambda: 10.0 * sum(images))
    samples = tiny_data(per_class=8).train
    assert fresh().loading(samples, 16, Augment(pad=1)) == pytest.approx(5.0)
    assert len(images) > 1


def test_files_that_cannot_be_read_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a run stops for them or leaves them out is decided when it reads its data."""
    monkeypatch.setattr(pace, "_LOADING_SECONDS", 0.05)
    bad = tmp_path / "a.png"
    bad.write_bytes(b"no picture")
    assert fresh().loading(file_samples([[bad]]), 16, Augment()) == 0
    make_pictures(tmp_path / "good", 3)
    good = sorted((tmp_path / "good").iterdir())
    assert fresh().loading(file_samples([[bad, *good]]), 16, Augment()) > 0


def test_each_network_is_tried_once_and_with_no_more_images_than_it_trains_on(
    timed: list[int],
) -> None:
    expected_duration(RECIPE, Cost(0, 1, (1, 1), (1, 1), (0, 0)), 16, fresh())
    assert timed == [128] * 4, "a training step and a forward pass of student and teachers"
    timed.clear()
    expected_duration(RECIPE, Cost(0, 1, (1, 1), (1, 1), (0, 0)), 512, fresh())
    assert max(timed) < 128


def test_random_numbers_stay_as_they_are(timed: list[int]) -> None:
    state = torch.get_rng_state()
    expected_duration(RECIPE, Cost(0, 1, (1, 1), (1, 1), (0, 0)), 8, fresh())
    assert torch.equal(torch.get_rng_state(), state)


def test_steps_are_run_until_they_can_be_timed() -> None:
    clock = iter(range(100))
    calls = []
    assert pace._seconds(lambda: calls.append(1), "cpu", lambda: next(clock) * 0.1) > 0
    assert len(calls) > 4
