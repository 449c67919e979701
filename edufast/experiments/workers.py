"""Tasks that depend on each other, done one by one or by several processes at a time.

Independent processes, even on other machines, may share the same tasks: each task is locked by the
process that does it, and the others take another one, or wait.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edufast.utils.errors import Interrupted, TrainingError, UserError
from edufast.utils.lock import InUse
from edufast.utils.progress import message_console
from edufast.utils.signals import (
    blocked_signals,
    deferred_interrupt,
    is_interrupt,
    signals_as_interrupt,
    unblock_signals,
)

_GRACE = 20.0  # seconds that a worker has to end before it is killed
_LOOK_AGAIN = 2.0  # seconds until a task of another process is tried again
DONE_ELSEWHERE = "done by another process"


class Task(Protocol):
    """Something to do once. Picklable; what it leaves on disk tells whether it was done."""

    @property
    def name(self) -> str: ...

    @property
    def product(self) -> Path:
        """What it makes; identifies the task."""

    @property
    def needs(self) -> tuple[Path, ...]:
        """Products of other tasks that must be done first."""

    def done(self) -> bool: ...

    def run(self, console: Console) -> str:
        """Do it, or go on where it was interrupted, unless it is done by now. Returns the outcome
        in a few words.

        Raises:
            InUse: another process does it.
        """


def run_tasks(tasks: Sequence[Task], jobs: int, logs: Path, console: Console) -> None:
    """Do those of ``tasks`` that are not done yet.

    Args:
        tasks: in an order in which they can be done one after the other.
        jobs: processes at a time; 1: this one. Each gets its share of torch's threads.
        logs: folder for what the processes print.

    Raises:
        Interrupted: after Ctrl-C; every task can go on where it stopped.
        UserError, TrainingError: a task failed; the others were stopped.
    """
    waiting = [task for task in tasks if not task.done()]
    if len(waiting) < len(tasks):
        console.print(f"{len(tasks) - len(waiting)} of {len(tasks)} trainings are done already")
    if jobs > 1 and len(waiting) > 1:
        _run_in_processes(waiting, jobs, logs, console)
        return
    elsewhere: set[Path] = set()
    while waiting:
        for task in _ready(waiting, waiting):
            number = len(tasks) - len(waiting) + 1
            if _attempt(task, f"{number}/{len(tasks)}", elsewhere, console):
                waiting.remove(task)
                break
        else:
            time.sleep(_LOOK_AGAIN)


def _attempt(task: Task, number: str, elsewhere: set[Path], console: Console) -> bool:
    """Do ``task`` unless another process does (said once); returns whether it is done."""
    known = task.product in elsewhere
    if not known:
        console.print(f"{number}  {task.name}", style="bold")
    try:
        task.run(console)
    except InUse as error:
        elsewhere.add(task.product)
        if not known:
            console.print(f"{error}")
        return False
    return True


def _ready(waiting: Sequence[Task], unfinished: Iterable[Task]) -> list[Task]:
    """Those of ``waiting`` whose needs are met."""
    unmet = {task.product for task in unfinished}
    return [task for task in waiting if unmet.isdisjoint(task.needs)]


def _run_in_processes(waiting: list[Task], jobs: int, logs: Path, console: Console) -> None:
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    total, done = len(waiting), 0
    shown = bar.add_task("trainings", total=total)
    with deferred_interrupt() as interrupted, bar, _Pool(waiting, jobs, logs) as pool:
        while pool.busy() or (waiting and not pool.stopping):
            if interrupted() or pool.failure:
                pool.stop()
            pool.assign()
            for task, outcome in pool.outcomes(interrupted):
                done += 1
                bar.update(shown, completed=done)
                bar.console.print(f"{done}/{total}  {task.name}: {outcome}")
        stopped = pool.stopping or interrupted()
    if pool.failure is not None:
        raise pool.failure
    if stopped:
        raise Interrupted("trainings")


class _Pool:
    """Processes that do the tasks ``waiting``, from which it takes those that it begins.

    Attributes:
        stopping: whether the processes were asked to end.
        failure: why the first task that failed did.
    """

    def __init__(self, waiting: list[Task], jobs: int, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        threads = max(1, torch.get_num_threads() // jobs)
        self.stopping = False
        self.failure: Exception | None = None
        self._waiting = waiting
        self._elsewhere: dict[Path, float] = {}  # tasks of other processes, and when to try again
        self._workers = [
            _Worker(logs / f"worker{i}.log", threads) for i in range(min(jobs, len(waiting)))
        ]

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()

    def busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def stop(self) -> None:
        """Ask all processes to end, once."""
        if not self.stopping:
            self.stopping = True
            for worker in self._workers:
                worker.interrupt()

    def assign(self) -> None:
        """Unless stopping, give idle processes the first tasks whose needs are met and which no
        other process was doing a moment ago."""
        if self.stopping:
            return
        at_work = [worker.task for worker in self._workers if worker.task is not None]
        idle = (worker for worker in self._workers if worker.task is None)
        now = time.monotonic()
        ready = _ready(self._waiting, [*self._waiting, *at_work])
        free = (task for task in ready if self._elsewhere.get(task.product, now) <= now)
        for worker, task in zip(idle, free, strict=False):
            self._waiting.remove(task)
            worker.start(task)

    def outcomes(self, interrupted: Callable[[], bool]) -> Iterator[tuple[Task, str]]:
        """Wait a moment for processes; the tasks that are done now, with their outcomes.

        Args:
            interrupted: whether something else than :meth:`stop` may have ended processes.
        """
        busy = self.busy()
        ready = wait([worker.connection for worker in busy], timeout=0.2)
        for worker in [worker for worker in busy if worker.connection in ready]:
            task = worker.task
            assert task is not None
            try:
                outcome = worker.collect(self.stopping or interrupted())
            except InUse:
                self._waiting.insert(0, task)
                self._elsewhere[task.product] = time.monotonic() + _LOOK_AGAIN
            except (TrainingError, UserError) as error:
                self.failure = self.failure or error
            else:
                if outcome is not None:
                    yield task, outcome


class _Worker:
    """A process that does one task after another; what it prints goes to a file."""

    def __init__(self, log: Path, threads: int) -> None:
        # Neither torch nor DALI survives a fork.
        context = multiprocessing.get_context("spawn")
        self.task: Task | None = None
        self.log = log
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, log, threads))
        # Python starts this one, too, along with the first process, and unblocks signals then.
        resource_tracker.ensure_running()
        with blocked_signals():  # until it is a group of its own that can handle them
            self._process.start()
        other.close()

    def start(self, task: Task) -> None:
        self.task = task
        with suppress(ConnectionError):  # it has ended, which collect() will tell
            self.connection.send(task)

    def collect(self, stopping: bool) -> str | None:
        """The outcome of the task; None: it was interrupted.

        Args:
            stopping: whether processes are asked to end.

        Raises:
            InUse: another process does it.
            UserError, TrainingError: it failed.
        """
        assert self.task is not None
        name, self.task = self.task.name, None
        try:
            kind, text = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            if stopping:
                return None
            raise TrainingError(f"{name}: its process ended, see {self.log}") from error
        if kind in _FAILURES:
            raise _FAILURES[kind](f"{name}: {text}")
        return text if kind == "done" else None

    def interrupt(self) -> None:
        """Stop the task as Ctrl-C would."""
        if self.task is not None:
            self._process.terminate()

    def close(self) -> None:
        if self.task is None:
            with suppress(ConnectionError):  # it has ended already
                self.connection.send(None)
        else:
            self._process.terminate()
        self._process.join(_GRACE)
        if self._process.is_alive():
            self._process.kill()


_FAILURES: dict[str, type[Exception]] = {
    "in use": InUse,
    "user": UserError,
    "training": TrainingError,
}


def _serve(connection: Connection, log: Path, threads: int) -> None:
    """What a worker process does: task after task, until there is none left."""
    os.setsid()  # Ctrl-C in the terminal reaches the parent alone, which passes it on once
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    console = message_console()
    # The parent stops, or is gone.
    with signals_as_interrupt(), suppress(KeyboardInterrupt, EOFError, ConnectionError):
        unblock_signals()
        while (task := connection.recv()) is not None:
            connection.send(_outcome(task, console))


def _end_with_parent() -> None:
    """End this process when its parent does, however that ends: it would go on in the folders of a
    sweep that is resumed meanwhile. Nothing is lost but the time since the last checkpoint."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _outcome(task: Task, console: Console) -> tuple[str, str]:
    started = time.strftime("%H:%M:%S")
    console.print(f"{started} {task.name}", highlight=False)
    try:
        return "done", task.run(console)
    except (Interrupted, KeyboardInterrupt):
        return "interrupted", ""
    except InUse as error:
        console.print(f"{error}")
        return "in use", str(error)
    except UserError as error:
        return "user", str(error)
    except TrainingError as error:
        return "training", str(error)
    except Exception as error:
        if is_interrupt(error):
            return "interrupted", ""
        traceback.print_exc()
        return "training", f"{type(error).__name__}: {error}"
