"""The command watch: what is seen of a run, and that the run is left alone."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import edufast.cli.watch as watch_module
from edufast.cli.watch import follow
from edufast.experiments.following import RunFollower
from edufast.utils.lock import folder_lock
from tests.commands import edufast, one_line
from tests.experiments import logs
from tests.experiments.test_following import REMAINING, STEP, append
from tests.experiments.test_runs import EDUCATED, a_run, result


def test_where_there_is_no_terminal_it_is_printed_once(tmp_path):
    run = a_run(tmp_path, [logs.RUN, logs.TEACHER, *EDUCATED, result(), logs.EXPORT])
    told = edufast("watch", run, columns=200).stdout
    assert "resnet8, digits & more, on cpu: finished" in told
    assert "teacher 0: resnet14, 2 classes, 97.0 %" in told
    assert "exported student.onnx: 95.4 %, 0.33 MB" in told
    (row,) = (line.split() for line in told.splitlines() if line.startswith("education, seed 0"))
    curve = "▅█▆▇▇█"
    assert row[3:] == ["3/3", "2", "1.000", "95.0", "%", "95.0", "%", "333", curve]


@pytest.mark.parametrize("columns", [80, 90, 120])
def test_nothing_is_cut_off_in_a_terminal_of_the_usual_width(tmp_path, columns):
    run = a_run(tmp_path, [logs.RUN, *EDUCATED, result()])
    told = edufast("watch", run, columns=columns).stdout
    assert "…" not in told and "best of grade" in told and "1.000" in told
    assert ("█" in told) is (columns > 80)


def test_an_interrupted_run_is_told_with_how_to_go_on(tmp_path):
    told = edufast("watch", a_run(tmp_path, [logs.RUN])).stdout
    assert "stopped" in told and "no student was trained yet" in told and "edufast resume" in told


def test_a_folder_without_a_run_is_refused(tmp_path):
    assert "holds no run" in one_line(edufast("watch", tmp_path, code=2))


class Script:
    """Takes the place of waiting: does something else each time."""

    def __init__(self, monkeypatch, *happens):
        self.happens = list(happens)
        monkeypatch.setattr(watch_module.time, "sleep", self)

    def __call__(self, seconds):
        assert 0.1 <= seconds <= 5
        self.happens.pop(0)()


@pytest.fixture
def terminal():
    return Console(force_terminal=True, file=io.StringIO(), width=200, highlight=False)


def test_a_run_is_followed_until_it_is_finished(tmp_path, monkeypatch, terminal):
    run = a_run(tmp_path, [logs.RUN, *EDUCATED[:2]])
    held = folder_lock(run)
    held.__enter__()
    script = Script(
        monkeypatch,
        lambda: append(run, STEP, REMAINING),
        lambda: append(run, *EDUCATED[2:], result()),
        lambda: held.__exit__(None, None, None),
    )
    follow(RunFollower(run), terminal)
    shown = terminal.file.getvalue()
    assert not script.happens
    assert shown.index("running") < shown.index("0.500") < shown.index("finished")
    assert "education: 40.0 % of the run, about 60 s left" in shown


def test_ctrl_c_ends_the_view_and_leaves_the_run_alone(tmp_path, monkeypatch, terminal):
    run = a_run(tmp_path, [logs.RUN, *EDUCATED[:2]])
    before = {path: path.read_bytes() for path in run.iterdir()}

    def interrupt():
        raise KeyboardInterrupt

    with folder_lock(run):
        before[run / ".lock"] = (run / ".lock").read_bytes()
        Script(monkeypatch, lambda: None, interrupt)
        follow(RunFollower(run), terminal)
        assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert "running" in terminal.file.getvalue()
