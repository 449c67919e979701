"""Where the time of a training step goes: a trace and a plot."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.table import Table
from torch.profiler import ProfilerActivity, profile, record_function

from edufast.bench.train.ladder import SchoolLoop
from edufast.experiments.report.style import LIGHT, figure, grid, label, png, title
from edufast.teachers.supervision import Supervision
from edufast.utils.files import atomic_write

PHASES = ("data", "teachers", "student forward", "loss", "backward", "optimiser")
WARM_UP, STEPS = 2, 5  # number of steps not measured, and of steps averaged
TOP = 8  # number of operators shown


@dataclass(frozen=True)
class Profile:
    """Average seconds per step.

    Attributes:
        phases: by name, in the order of the step.
        operators: the ``TOP`` slowest, without the operators that they call.
    """

    phases: dict[str, float]
    operators: dict[str, float]


def profile_step(loop: SchoolLoop, trace: Path) -> Profile:
    """Average ``STEPS`` steps, and write a Chrome trace of one more to ``trace``."""
    batches = loop.batches()

    def step() -> None:
        with record_function("data"):
            batch = next(batches)
        loop.step(batch)

    with _labelled(loop):
        for _ in range(WARM_UP):
            step()
        average = _recorded(step, STEPS)
        one = _recorded(step, 1)
    with atomic_write(trace) as path:
        one.export_chrome_trace(str(path))
    return _summary(average)


def table(result: Profile) -> Table:
    """A line for every phase."""
    t = Table("phase", "ms", title="average step")
    for name, seconds in result.phases.items():
        t.add_row(name, f"{1e3 * seconds:.1f}")
    return t


def plot(result: Profile, what: str) -> bytes:
    """Two panels: the phases of the step, and its operators."""
    drawn, axes = figure(LIGHT, 5.6, rows=2)
    panels = (
        ("phases", result.phases),
        ("operators, without those that they call", result.operators),
    )
    whole = sum(result.phases.values())
    for axis, (heading, seconds), colour in zip(axes, panels, LIGHT.palette, strict=False):
        bars = axis.barh(list(seconds), [1e3 * s for s in seconds.values()], color=colour)
        shares = [f" {s / whole:.1%}" for s in seconds.values()]
        axis.bar_label(bars, shares, color=LIGHT.faint, fontsize=9)
        axis.margins(x=0.1)
        axis.invert_yaxis()
        axis.set_title(heading, loc="left", color=LIGHT.ink, fontsize=10)
        grid(axis, LIGHT, "x")
        label(axis, LIGHT, x="ms per step")
    title(drawn, f"{what}: {1e3 * whole:,.0f} ms per step", LIGHT)
    return png(drawn)


def _recorded(step: Callable[[], None], steps: int) -> profile:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recording:
        for _ in range(steps):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return recording


def _summary(recording: profile) -> Profile:
    averages = recording.key_averages()
    on_device = any(event.device_time_total for event in averages)

    def seconds(event: Any, *, own: bool) -> float:
        time = f"{'self_' if own else ''}{'device' if on_device else 'cpu'}_time_total"
        return float(getattr(event, time)) / 1e6 / STEPS

    phases = {event.key: seconds(event, own=False) for event in averages if event.key in PHASES}
    operators = {
        event.key.rpartition(": ")[2].removeprefix("aten::"): seconds(event, own=True)
        for event in averages
        if event.key not in PHASES
    }
    top = sorted(operators, key=operators.__getitem__, reverse=True)[:TOP]
    return Profile(
        {name: phases.get(name, 0.0) for name in PHASES}, {name: operators[name] for name in top}
    )


@contextmanager
def _labelled(loop: SchoolLoop) -> Iterator[None]:
    """Within the block, recordings show the phases of the loop's step under their names."""
    school = loop.school
    with ExitStack() as stack:
        for owner, name, phase in (
            (Supervision, "__call__", "teachers"),
            (school.student, "forward_answers", "student forward"),
            (school.algorithm, "logit_loss", "loss"),
            (torch.Tensor, "backward", "backward"),
            (school.step.optimizer, "step", "optimiser"),
        ):
            labelled = _under(phase, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, labelled))
        yield


def _under(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def labelled(*arguments: Any, **keywords: Any) -> Any:
        with record_function(phase):
            return function(*arguments, **keywords)

    return labelled
