"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from edufast.utils.errors import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def message_console() -> Console:
    """Standard error, for messages."""
    from edufast.utils.terminal import Terminal

    return Terminal(stderr=True)


def _bar(*, numbers: bool) -> Progress | None:
    """A bar without a task yet, with a column of ``numbers``; None without a terminal or rich."""
    try:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ModuleNotFoundError:
        return None
    console = message_console()
    if not console.is_terminal:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *[TextColumn("{task.fields[numbers]}", markup=False)] * numbers,
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class TrainingBar:
    """A bar for the current epoch, and a line for each finished one.

    If standard error is not a terminal, or rich is not installed, only the lines are written; if it
    is to be ``quiet``, nothing.
    """

    def __init__(self, method: str, grades: int, *, quiet: bool = False) -> None:
        self._method, self._grades, self._quiet = method, grades, quiet
        self._bar = None if quiet else _bar(numbers=True)
        if self._bar:
            self._task = self._bar.add_task(method, total=None, numbers="")
        self._label = method
        self._note = ""

    def __enter__(self) -> TrainingBar:
        if self._bar:
            self._bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.__exit__(kind, value, traceback)

    def start_epoch(self, grade: int, epoch: int, epochs: int, steps: int) -> None:
        """Start the bar of a new epoch; ``grade`` and ``epoch`` count from 0."""
        where = f"grade {grade + 1}/{self._grades}, " if self._grades > 1 else ""
        self._label = f"{self._method}: {where}epoch {epoch + 1}/{epochs}"
        if self._bar:
            self._bar.reset(self._task, total=steps, description=self._label, numbers="")

    def update(self, step: int, loss: float, images_per_second: float) -> None:
        """Show the number of steps done and the latest measurements."""
        if self._bar:
            numbers = f"loss {loss:.3f}  {images_per_second:,.0f} images/s  {self._note}".rstrip()
            self._bar.update(self._task, completed=step, numbers=numbers)

    def end_epoch(
        self, loss: float, accuracy: float, images_per_second: float, note: str = ""
    ) -> None:
        """Print a line with the results of the epoch, and ``note``, which later bars show, too."""
        self._note = note
        results = f"loss {loss:.3f}, accuracy {accuracy:.1%}, {images_per_second:,.0f} images/s"
        self.say(f"{self._label}: {results}{', ' * bool(note)}{note}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar:
            self._bar.console.print(text, highlight=False, soft_wrap=True)
        elif not self._quiet:
            print(visible(text), file=sys.stderr)


@contextmanager
def counting(
    label: str, total: int | None, *, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar that counts to ``total``, if that is known; yields a function that advances it by a
    number of items. With ``quiet`` there is no bar."""
    bar = None if quiet else _bar(numbers=False)
    if bar is None:
        yield lambda more: None
        return
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda more: bar.advance(task, more)
