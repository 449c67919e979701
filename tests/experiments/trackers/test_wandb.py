"""Weights & Biases, by a package of the same functions: the real one asks for an account."""

from __future__ import annotations

from tests.experiments.trackers.events import CONFIG
from tests.experiments.trackers.fakes import logged, run_module


def test_it_gets_the_config_and_every_point_with_its_samples(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    calls = logged(monkeypatch, tmp_path / "mine", "wandb", run_module)
    ((_, begun),) = calls.of("init")
    assert (begun["project"], begun["name"], begun["config"]) == ("edufast", "mine", CONFIG)
    assert begun["dir"] == tmp_path / "mine"
    assert calls.of("define_metric") == [(("*",), {"step_metric": "samples"})]
    points = [arguments[0] for arguments, _ in calls.of("log")]
    assert [p["samples"] for p in points] == [100, 320, 640, 640]
    assert points[1]["education-0/loss"] == 2.0
    assert calls[-1][0] == "finish"


def test_a_resumed_run_goes_on_in_the_same_place_and_another_in_another(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    ids = []
    for name in ("a", "a", "b"):
        ((_, begun),) = logged(monkeypatch, tmp_path / name, "wandb", run_module).of("init")
        assert (begun["project"], begun["resume"]) == ("theirs", "allow")
        ids.append(begun["id"])
    assert ids[0] == ids[1] != ids[2]
