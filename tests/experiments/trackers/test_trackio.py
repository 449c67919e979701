"""trackio, by a package of the same functions."""

from __future__ import annotations

from tests.experiments.trackers.events import CONFIG
from tests.experiments.trackers.fakes import logged, run_module


def test_it_gets_the_config_and_every_point_with_its_samples(tmp_path, monkeypatch):
    calls = logged(monkeypatch, tmp_path / "mine", "trackio", run_module)
    (((project,), begun),) = calls.of("init")
    assert (project, begun["config"], begun["resume"]) == ("edufast", CONFIG, "allow")
    assert [keywords["step"] for _, keywords in calls.of("log")] == [100, 320, 640, 640]
    assert calls.of("log")[3][0][0]["education-0/accuracy"] == 0.5
    assert calls[-1][0] == "finish"


def test_what_it_says_leaves_standard_output_to_programs(tmp_path, monkeypatch, capsys):
    def talking(name, calls):
        module = run_module(name, calls)
        run = module.init()
        run.finish = lambda: print("finished")
        module.init = lambda *_, **__: print("created") or run
        return module

    logged(monkeypatch, tmp_path, "trackio", talking)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "created\nfinished\n")


def test_a_resumed_run_goes_on_under_its_name_and_another_under_another(tmp_path, monkeypatch):
    names = []
    for name in ("x/mine", "x/mine", "y/mine"):
        ((_, begun),) = logged(monkeypatch, tmp_path / name, "trackio", run_module).of("init")
        names.append(begun["name"])
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("mine-") for name in names)
