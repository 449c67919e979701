"""A benchmark: contests between EduFast's code and what people use instead, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from edufast.bench.results import differences, duration, not_a_result, read, write
from edufast.bench.timing import machine, threads_for
from edufast.utils.errors import UserError
from edufast.utils.progress import message_console

Case = TypeVar("Case")
Result = dict[str, Any]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Benchmark(Generic[Case]):
    """Contests, in each of which EduFast and its rivals solve one case in turns.

    Attributes:
        name: of its files, ``<name>.json`` and ``<name>.png``.
        heading: what is measured.
        caption: of its plot.
        rivals: what the names of other people's implementations begin with.
        cases: what there is to measure (quick, device).
        known: what a result says of its case, which ``title`` reads.
        title: of a contest, from its result.
        measurer: (quick, device, report) to a function that measures a case. ``report`` may be
            called with what is being measured.
        shown: tables and notes for a terminal.
        illustrate: writes the plot (folder, machine, results), and what else is to be read.
        one_thread: always of the CPU, whatever is asked for.
    """

    name: str
    heading: str
    caption: str
    rivals: tuple[str, ...]
    cases: Callable[[bool, str], Sequence[Case]]
    known: Callable[[Case], Result]
    title: Callable[[Result], str]
    measurer: Callable[[bool, str, Report], Callable[[Case], Result]]
    shown: Callable[[Sequence[Result]], Sequence[RenderableType]]
    illustrate: Callable[[Path, Mapping[str, Any], Sequence[Result]], None]
    one_thread: bool = False

    def machine(self, device: str, threads: int | None) -> dict[str, Any]:
        """The description that its results will have."""
        return machine("cpu", 1) if self.one_thread else machine(device, threads)

    def is_rival(self, implementation: str) -> bool:
        return implementation.startswith(self.rivals)

    def path(self, folder: Path) -> Path:
        """Of its results."""
        return folder / f"{self.name}.json"

    def contests(self, cases: Sequence[Case]) -> dict[str, Case]:
        """Cases by their titles."""
        return {self.title(self.known(case)): case for case in cases}

    def earlier(self, folder: Path, where: Mapping[str, Any]) -> dict[str, Result]:
        """Results in ``folder`` by their titles; none if there is no file.

        Args:
            folder: of results.
            where: this machine's description.

        Raises:
            UserError: they are of another machine, commit or benchmark, or damaged.
        """
        path = self.path(folder)
        if not path.exists():
            return {}
        before = read(path, self.title)
        differing = differences(before["machine"], dict(where))
        if differing:
            raise UserError(f"{path}: {differing[0]}; choose another folder")
        try:
            self.shown(before["results"])
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise not_a_result(path) from error
        # Results that do not say how they were measured are of little use, like quick ones.
        return {self.title(result): {"quick": True, **result} for result in before["results"]}


def missing(
    contests: Mapping[str, Case], results: Mapping[str, Result], quick: bool
) -> dict[str, Case]:
    """Those without a result; a quick one is no substitute for a whole one."""
    return {
        title: case
        for title, case in contests.items()
        if title not in results or (results[title]["quick"] and not quick)
    }


def run(
    benchmark: Benchmark[Case],
    quick: bool,
    out: Path | None,
    device: str,
    threads: int | None,
    cases: Sequence[Case] | None = None,
) -> None:
    """Measure, and print the tables.

    With ``out``, the results are written after every contest, so that a run that is stopped goes
    on where it was, and the plot at the end.

    Args:
        benchmark: to run.
        quick: fewer cases, measured for a shorter time.
        out: folder of the results; contests that it holds already are not measured again.
        device: "cpu" or a CUDA device.
        threads: number of CPU threads for PyTorch; None: unchanged.
        cases: to measure; None: all.

    Raises:
        UserError: ``out`` holds results of another machine or commit; nothing was measured.
    """
    where = benchmark.machine(device, threads)
    if cases is None:
        cases = benchmark.cases(quick, where["device"])
    contests = benchmark.contests(cases)
    results = {} if out is None else benchmark.earlier(out, where)
    todo = missing(contests, results, quick)
    console = Console()
    if not console.is_terminal:
        console.width = 120
    if len(todo) < len(contests):
        done = f"{len(contests) - len(todo)} of {len(contests)} contests"
        console.print(f"{benchmark.name}: {done} measured already", highlight=False)
    if todo:
        with threads_for(where["threads"]), _progress(benchmark.name, len(todo)) as progress:
            measured = benchmark.measurer(quick, where["device"], progress.report)
            for title, case in todo.items():
                progress.begin(title)
                results[title] = {**benchmark.known(case), "quick": quick, **measured(case)}
                if out is not None:
                    is_quick = any(result["quick"] for result in results.values())
                    write(benchmark.path(out), where, is_quick, list(results.values()))
    for part in benchmark.shown([results[title] for title in contests]):
        console.print(part)
    if out is not None:
        benchmark.illustrate(out, where, list(results.values()))


# --- progress -----------------------------------------------------------------------------------


class _Progress:
    """Which contest is being measured, and how long the others will take at this pace: beside a
    spinner on a terminal, elsewhere a line for every contest."""

    def __init__(self, name: str, total: int, console: Console, status: Status) -> None:
        self._name, self._total, self._console, self._status = name, total, console, status
        self._begun, self._started, self._text = 0, time.monotonic(), ""

    def begin(self, title: str) -> None:
        left = ""
        if self._begun:
            pace = (time.monotonic() - self._started) / self._begun
            left = f", about {duration(pace * (self._total - self._begun))} left"
        self._begun += 1
        self._text = f"{self._name}: {title} ({self._begun} of {self._total}{left})"
        self._status.update(Text(self._text))
        if not self._console.is_terminal:
            self._console.print(self._text, highlight=False, soft_wrap=True)

    def report(self, what: str) -> None:
        self._status.update(Text(f"{self._text}: {what}"))


@contextmanager
def _progress(name: str, total: int) -> Iterator[_Progress]:
    console = message_console()
    with console.status("") as status:
        yield _Progress(name, total, console, status)
