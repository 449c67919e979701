"""The event log of a run, read back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edufast.experiments.events import (
    BudgetEvent,
    DeviceEvent,
    ExportEvent,
    PhaseEvent,
    ResultEvent,
    RunEvent,
    TeacherEvent,
)
from edufast.training.events import CompileEvent, EpochEvent, GradeEvent
from edufast.utils.errors import UserError
from edufast.utils.event_log import Event
from edufast.utils.json_text import parse_json

MethodEvent = BudgetEvent | CompileEvent | EpochEvent | GradeEvent | PhaseEvent | ResultEvent

# By kind. Step events are for following a training as it runs, and are not read back.
READERS: dict[str, TypeAdapter[Any]] = {
    event.kind: TypeAdapter(event)
    for event in (
        RunEvent,
        TeacherEvent,
        BudgetEvent,
        CompileEvent,
        EpochEvent,
        GradeEvent,
        PhaseEvent,
        ResultEvent,
        ExportEvent,
        DeviceEvent,
    )
}


@dataclass
class Trial:
    """One method with one seed.

    Attributes:
        epochs, grades: in order.
        phases: seconds by phase.
        result: None: not finished.
    """

    epochs: list[EpochEvent] = field(default_factory=list)
    grades: list[GradeEvent] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    result: ResultEvent | None = None

    def progress(self) -> str:
        """How far it got, in words."""
        if not self.epochs:
            return "before its first epoch ended"
        return f"after epoch {self.epochs[-1].epoch + 1} of grade {self.epochs[-1].grade}"


@dataclass
class MethodLog:
    """One way to train the student, over its seeds."""

    name: str
    trials: dict[int, Trial] = field(default_factory=dict)
    budget: BudgetEvent | None = None

    @property
    def results(self) -> list[ResultEvent]:
        """Of the trials that have one, by seed."""
        return [trial.result for trial in self.trials.values() if trial.result is not None]

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, of all trials together."""
        total: dict[str, float] = {}
        for trial in self.trials.values():
            for phase, seconds in trial.phases.items():
                total[phase] = total.get(phase, 0.0) + seconds
        return total


@dataclass
class RunLog:
    """All that metrics.jsonl says about a run, each thing once.

    Attributes:
        run: None: it did not begin.
        teachers: by position.
        methods: by name, in the order of their first event.
        exports: in the order of their first event.
        devices: how exported files do on machines; of each file and machine the latest.
    """

    run: RunEvent | None = None
    teachers: list[TeacherEvent] = field(default_factory=list)
    methods: dict[str, MethodLog] = field(default_factory=dict)
    exports: list[ExportEvent] = field(default_factory=list)
    devices: list[DeviceEvent] = field(default_factory=list)

    @property
    def results(self) -> dict[tuple[str, int], ResultEvent]:
        """Of the trials that have one, by method and seed."""
        methods = self.methods.values()
        return {(m.name, result.seed): result for m in methods for result in m.results}

    @property
    def baseline(self) -> MethodLog | None:
        """The first method other than education that has a result: what others compare with."""
        return next((m for m in self.methods.values() if m.name != "education" and m.results), None)

    def unfinished(self) -> list[str]:
        """One phrase for each trial without a result."""
        phrases = [
            f"{method.name} (seed {seed}) stopped {trial.progress()}"
            for method in self.methods.values()
            for seed, trial in method.trials.items()
            if trial.result is None
        ]
        if not any(method.trials for method in self.methods.values()):
            phrases.append("no student was trained yet")
        return phrases


def read_run(path: Path) -> RunLog:
    """What the event log at ``path`` says so far.

    Raises:
        UserError: as :func:`read_events`.
    """
    return collect(read_events(path))


def read_events(path: Path) -> list[Event]:
    """The events of a log, in the order in which they were written.

    Events of unknown kinds, fields of unknown names, and a last line that a crash cut short are
    left out; so, with a warning, are damaged lines.

    Raises:
        UserError: a line is no event but whole, or an event lacks a field.
    """
    lines = path.read_text("utf-8", errors="replace").rstrip().split("\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = _parse(parse_json(line))
        except json.JSONDecodeError:
            if number < len(lines):
                warnings.warn(f"{path}:{number} is damaged and left out", stacklevel=2)
            continue
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: {error}; if the line is damaged, remove it and continue"
            ) from error
        if event is not None:
            events.append(event)
    return events


def collect(events: Iterable[Event]) -> RunLog:
    """``events`` by what they are about. Of several about the same thing the last one counts: a
    training that goes on repeats its last epoch."""
    run: RunEvent | None = None
    teachers: dict[int, TeacherEvent] = {}
    exports: dict[str, ExportEvent] = {}
    devices: dict[tuple[str, str], DeviceEvent] = {}
    methods: dict[str, MethodLog] = {}
    epochs: dict[tuple[str, int, int, int], EpochEvent] = {}
    grades: dict[tuple[str, int, int], GradeEvent] = {}

    def method(name: str) -> MethodLog:
        return methods.setdefault(name, MethodLog(name))

    def trial(event: EpochEvent | GradeEvent | PhaseEvent | ResultEvent) -> Trial:
        return method(event.method).trials.setdefault(event.seed, Trial())

    for event in events:
        match event:
            case RunEvent():
                run = event
            case TeacherEvent():
                teachers[event.teacher] = event
            case ExportEvent():
                exports[event.path] = event
            case DeviceEvent():
                devices[event.machine, event.file] = event
            case BudgetEvent():
                method(event.method).budget = event
            case EpochEvent():
                trial(event)
                epochs[event.method, event.seed, event.grade, event.epoch] = event
            case GradeEvent():
                trial(event)
                grades[event.method, event.seed, event.grade] = event
            case PhaseEvent():
                trial(event).phases[event.phase] = event.seconds
            case ResultEvent():
                trial(event).result = event
    for where in sorted(epochs):
        trial(epochs[where]).epochs.append(epochs[where])
    for place in sorted(grades):
        trial(grades[place]).grades.append(grades[place])
    for log in methods.values():
        log.trials = dict(sorted(log.trials.items()))
    return RunLog(
        run,
        [teachers[k] for k in sorted(teachers)],
        methods,
        list(exports.values()),
        list(devices.values()),
    )


def _parse(content: Any) -> Event | None:
    """The event that a line holds; None: of a kind that is not read back.

    Raises:
        ValueError: it is no event, or lacks a field.
    """
    if not isinstance(content, dict) or not isinstance(content.get("event"), str):
        raise ValueError('expected an object with a key "event"')
    kind = content["event"]
    if kind not in READERS:
        return None
    try:
        event: Event = READERS[kind].validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key, found = ".".join(map(str, first["loc"])), first["input"]
        if first["type"] == "missing" or found is None:
            raise ValueError(f'"{kind}" event without "{key}"') from error
        raise ValueError(f'"{kind}" event: {key}: found {found!r}; {first["msg"]}') from error
    return event
