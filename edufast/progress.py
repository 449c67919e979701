"""What a person sees while a student trains."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """A bar for the running epoch. Off a terminal rich draws only its last state."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._progress.add_task(method, total=None, numbers="")

    def __enter__(self) -> TrainingProgress:
        self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.__exit__(kind, value, traceback)

    def start_epoch(self, grade: int, grades: int, epoch: int, epochs: int, steps: int) -> None:
        """Begin a new bar; all numbers but the totals count from 0."""
        label = f"{self._method}: grade {grade + 1}/{grades}, epoch {epoch + 1}/{epochs}"
        self._progress.reset(self._task, total=steps, description=label, numbers="")

    def update(self, step: int, loss: float, images_per_second: float) -> None:
        """Show how far the epoch is."""
        numbers = f"loss {loss:.3f}  {images_per_second:,.0f} images/s"
        self._progress.update(self._task, completed=step, numbers=numbers)
