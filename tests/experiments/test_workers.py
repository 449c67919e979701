"""Tasks in several processes: their order, and how a failure is told."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from edufast.experiments import workers
from edufast.experiments.workers import DONE_ELSEWHERE, run_tasks
from edufast.utils.errors import Interrupted, TrainingError
from edufast.utils.lock import InUse
from tests.commands import interrupted_import


class FileTask:
    """Writes its file once those it needs are there; the text of `verb` says how it ends."""

    def __init__(self, product: Path, needs: tuple[Path, ...] = (), verb: str = "write") -> None:
        self.product, self.needs, self.verb = product, needs, verb

    @property
    def name(self) -> str:
        return self.product.name

    def done(self) -> bool:
        return self.product.exists()

    def run(self, console) -> str:
        assert all(path.exists() for path in self.needs)
        if self.verb == "die":
            os._exit(3)
        if self.verb == "leave" and self.product.with_suffix(".lock").exists():
            raise InUse(f"{self.name} is in use")
        if self.done():
            return DONE_ELSEWHERE
        self.product.write_text(str(os.getpid()))
        return "written"


SWEEP_THAT_IS_KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from rich.console import Console
from edufast.experiments.workers import run_tasks

class Task:
    needs = ()
    def __init__(self, product):
        self.product, self.name = product, product.name
    def done(self):
        return False
    def run(self, console):
        self.product.write_text(str(os.getpid()))
        time.sleep(600)

def kill_when_both_run(folder):
    while len([path for path in folder.glob("task?") if path.read_text()]) < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    threading.Thread(target=kill_when_both_run, args=(folder,), daemon=True).start()
    run_tasks([Task(folder / "task1"), Task(folder / "task2")], 2, folder, Console(quiet=True))
"""


def test_processes_end_with_their_parent_even_when_it_is_killed(tmp_path):
    script = tmp_path / "sweep.py"
    script.write_text(SWEEP_THAT_IS_KILLED)
    process = subprocess.run([sys.executable, script, tmp_path], timeout=300)
    assert process.returncode == -signal.SIGKILL
    workers = [int((tmp_path / name).read_text()) for name in ("task1", "task2")]
    deadline = time.monotonic() + 60  # they would sleep for ten minutes
    while left := [pid for pid in workers if running(pid)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            pytest.fail("a worker outlives its parent")
        time.sleep(0.05)


def running(pid):
    """Whether there is such a process, other than one that nobody waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_keep_the_order_and_tell_a_failure(tmp_path):
    a, b, c, bad, late = (tmp_path / name for name in ("a", "b", "c", "bad", "late"))
    tasks = [
        FileTask(a),
        FileTask(b, (a,)),
        FileTask(c),
        FileTask(bad, (a, b, c), verb="die"),
        FileTask(late, (bad,)),
    ]
    with pytest.raises(TrainingError, match=r"bad: its process ended, see .*worker.\.log"):
        run_tasks(tasks, 2, tmp_path / "logs", Console(quiet=True))
    assert a.exists() and b.exists() and c.exists() and not late.exists()
    assert a.read_text() != c.read_text(), "processes share the work"


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("finishes", [True, False])
def test_what_another_process_does_is_waited_for_or_taken_over(
    tmp_path, monkeypatch, jobs, finishes
):
    """It finishes the task, or is killed, which frees the lock; what needs the task comes after."""
    held, free, last = (tmp_path / name for name in ("held", "free", "last"))
    tasks = [FileTask(held, verb="leave"), FileTask(free), FileTask(last, (held,))]
    held.with_suffix(".lock").touch()

    def end():
        while not free.exists():
            time.sleep(0.01)
        time.sleep(0.3)  # several looks, at what is locked
        assert not last.exists()
        if finishes:
            held.write_text("by another")
        held.with_suffix(".lock").unlink()

    monkeypatch.setattr(workers, "_LOOK_AGAIN", 0.1)
    said = Console(record=True, file=io.StringIO())
    with ThreadPoolExecutor(1) as other:
        ended = other.submit(end)
        run_tasks(tasks, jobs, tmp_path / "logs", said)
        ended.result()
    assert (held.read_text() == "by another") == finishes
    assert last.exists() and (jobs > 1 or said.export_text().count("held is in use") == 1)


def handles_ctrl_c(pid: int) -> bool:
    """Whether a process is so far that Ctrl-C is an exception of Python."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert caught is not None
    return bool(int(caught[1], 16) >> (signal.SIGINT - 1) & 1)


@pytest.fixture
def not_ignored():
    """nohup ignores SIGHUP, here and in every process that is started here."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("not_ignored")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_a_process_that_is_still_starting_is_no_traceback(tmp_path, capfd, number):
    """As Ctrl-C in a terminal, which goes to all processes of a command. It has no task yet, which
    it might have done before the signal comes."""
    worker = workers._Worker(tmp_path / "log", threads=1)
    while not handles_ctrl_c(worker._process.pid):
        time.sleep(0.001)
    os.kill(worker._process.pid, number)
    with pytest.raises((EOFError, ConnectionError)):
        worker.connection.recv()
    worker.close()
    assert worker._process.exitcode == 0
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "log").read_text()


def test_processes_that_end_by_the_signal_that_stops_the_sweep_are_no_failure(
    tmp_path, monkeypatch
):
    start = workers._Worker.start

    def start_and_stop_all(worker: workers._Worker, task: FileTask) -> None:
        start(worker, task)
        worker._process.kill()
        if task is tasks[1]:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(workers._Worker, "start", start_and_stop_all)
    tasks = [FileTask(tmp_path / name) for name in "ab"]
    with pytest.raises(Interrupted):
        run_tasks(tasks, jobs=2, logs=tmp_path / "logs", console=Console())


def test_a_process_that_ended_before_its_task_came_is_told(tmp_path, monkeypatch):
    make = workers._Worker.__init__

    def make_and_kill(worker: workers._Worker, log: Path, threads: int) -> None:
        make(worker, log, threads)
        worker._process.kill()
        worker._process.join()

    monkeypatch.setattr(workers._Worker, "__init__", make_and_kill)
    tasks = [FileTask(tmp_path / name) for name in "ab"]
    with pytest.raises(TrainingError, match=r"its process ended, see .*worker\d.log"):
        run_tasks(tasks, jobs=2, logs=tmp_path / "logs", console=Console())


def test_a_task_that_is_interrupted_while_it_imports_did_not_fail(tmp_path, monkeypatch):
    task = FileTask(tmp_path / "a")
    monkeypatch.setattr(task, "run", interrupted_import)
    assert workers._outcome(task, Console(quiet=True)) == ("interrupted", "")
