"""What a run writes to metrics.jsonl, and reading it back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from edufast.utils import event_log
from edufast.utils.errors import UserError

Event = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunEvent(event_log.Event):
    """When a run begins: what it is about."""

    kind: ClassVar[str] = "run"
    name: str
    dataset: str
    classes: list[str]
    num_classes: int
    device: str
    torch: str
    student: str
    split: str
    equal: str
    slices: list[list[int]]
    grades: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TeacherEvent(event_log.Event):
    """A teacher was trained."""

    kind: ClassVar[str] = "teacher"
    teacher: int
    model: str
    classes: list[int]
    accuracy: float
    seconds: float
    flops: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class BudgetEvent(event_log.Event):
    """How many samples a method trains on; for equal time also what that follows from."""

    kind: ClassVar[str] = "budget"
    method: str
    equal: str
    samples: int
    seconds: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseEvent(event_log.Event):
    """Seconds that a student's training spent in one of its phases."""

    kind: ClassVar[str] = "phase"
    method: str
    seed: int
    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ResultEvent(event_log.Event):
    """A student was trained: how good it is and what it took."""

    kind: ClassVar[str] = "result"
    method: str
    seed: int
    accuracy: float
    best_accuracy: float
    best_epoch: int
    slice_accuracy: list[float]
    slice_accuracy_masked: list[float]
    samples: int
    student_flops: int
    teacher_flops: int
    teacher_training_flops: int
    teacher_training_seconds: float
    seconds: float
    training_seconds: float
    data_wait: float


@dataclass(frozen=True, kw_only=True)
class ExportEvent(event_log.Event):
    """A student was exported and verified."""

    kind: ClassVar[str] = "export"
    path: str
    opset: int
    bytes: int
    noise: bool
    samples: int
    agreement: float
    accuracy_torch: float | None
    max_abs_difference: float
    accuracy_onnx: float | None
    accuracy: float
    latency_ms: float


# What identifies an event of each kind, beyond the kind itself: of several with the same identity
# (a resumed run repeats its last grade) the last one counts.
IDENTITY: dict[str, tuple[str, ...]] = {
    "run": (),
    "teacher": ("teacher",),
    "epoch": ("method", "seed", "grade", "epoch"),
    "grade": ("method", "seed", "grade"),
    "budget": ("method",),
    "result": ("method", "seed"),
    "phase": ("method", "seed", "phase"),
    "export": ("path",),
}
# Where accuracy was measured, in words.
SPLITS = {
    "holdout": "on a held-out part of the training split",
    "validation": "on the data set's validation split",
}
EQUAL = {"samples": "numbers of samples", "flops": "student FLOPs", "time": "training time"}
# In the folder of a run of a sweep whose loss was not finite: at which step.
DIVERGED = "diverged.txt"
NEEDED: dict[str, tuple[str, ...]] = {
    "teacher": ("accuracy",),
    "epoch": ("samples", "accuracy"),
    "grade": ("accuracy",),
    "budget": ("samples",),
    "result": ("accuracy",),
    "phase": ("seconds",),
    "export": ("agreement",),
}


@dataclass
class Trial:
    """One method with one seed."""

    epochs: list[Event] = field(default_factory=list)
    grades: list[Event] = field(default_factory=list)
    result: Event | None = None

    def where(self) -> str:
        """How far it got, in words."""
        if not self.epochs:
            return "before its first epoch ended"
        last = self.epochs[-1]
        return f"after epoch {last['epoch'] + 1} of grade {last['grade']}"


@dataclass
class Method:
    """One way to train the student, over its seeds."""

    name: str
    trials: dict[int, Trial] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)  # phase -> seconds
    budget: Event | None = None

    @property
    def results(self) -> list[Event]:
        return [trial.result for trial in self.trials.values() if trial.result is not None]


@dataclass
class RunLog:
    """All that metrics.jsonl says about a run, each thing once.

    Attributes:
        run: the ``run`` event, empty when there is none.
        teachers: ``teacher`` events by teacher number.
        methods: by name, in the order of their first event.
        exports: ``export`` events.
        config: text of config.yaml, or None.
    """

    run: Event
    teachers: list[Event]
    methods: dict[str, Method]
    exports: list[Event]
    config: str | None

    @property
    def baseline(self) -> Method | None:
        """The first method other than education that has a result: what others compare with."""
        return next((m for m in self.methods.values() if m.name != "education" and m.results), None)

    def unfinished(self) -> list[str]:
        """One phrase for each trial without a result."""
        phrases = []
        for method in self.methods.values():
            for seed, trial in method.trials.items():
                if trial.result is None:
                    phrases.append(f"{method.name} (seed {seed}) stopped {trial.where()}")
        if not any(method.trials for method in self.methods.values()):
            phrases.append("no student was trained yet")
        return phrases


def read_run(run_dir: Path) -> RunLog:
    """Read ``metrics.jsonl``, and ``config.yaml`` where there is one, of a run directory.

    Raises:
        UserError: no metrics.jsonl, or a line of it that is no event. A torn last line, left by a
            crash while writing, is ignored.
    """
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{run_dir} is no run directory: it has no metrics.jsonl")
    latest: dict[tuple[Any, ...], Event] = {}
    for event in read_events(path):
        kind = event["event"]
        if kind in IDENTITY:
            identity = (kind, *(event[key] for key in IDENTITY[kind]))
            latest[identity] = event
    config = run_dir / "config.yaml"
    log = RunLog({}, [], {}, [], config.read_text("utf-8") if config.is_file() else None)
    for event in latest.values():
        _place(log, event)
    log.teachers.sort(key=lambda event: event["teacher"])
    for method in log.methods.values():
        for trial in method.trials.values():
            trial.epochs.sort(key=lambda event: (event["grade"], event["epoch"]))
            trial.grades.sort(key=lambda event: event["grade"])
        method.trials = dict(sorted(method.trials.items()))
    return log


def read_events(path: Path) -> list[Event]:
    """All events of a log, in the order in which they were written.

    Raises:
        UserError: a line is no event; a torn last line is ignored.
    """
    lines = path.read_text("utf-8", errors="replace").rstrip().split("\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            events.append(_check(json.loads(line)))
        except ValueError as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            raise UserError(f"{path}:{number}: {error}") from error
    return events


def _check(event: Any) -> Event:
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise ValueError('expected an object with a key "event"')
    kind = event["event"]
    for key in (*IDENTITY.get(kind, ()), *NEEDED.get(kind, ())):
        if event.get(key) is None:
            raise ValueError(f'"{kind}" event without "{key}"')
    return event


def _place(log: RunLog, event: Event) -> None:
    kind = event["event"]
    if kind == "run":
        log.run = event
    elif kind == "teacher":
        log.teachers.append(event)
    elif kind == "export":
        log.exports.append(event)
    else:
        method = log.methods.setdefault(event["method"], Method(event["method"]))
        if kind == "budget":
            method.budget = event
            return
        if kind == "phase":
            spent = method.phases.get(event["phase"], 0.0)
            method.phases[event["phase"]] = spent + event["seconds"]
            return
        trial = method.trials.setdefault(event["seed"], Trial())
        if kind == "epoch":
            trial.epochs.append(event)
        elif kind == "grade":
            trial.grades.append(event)
        else:
            trial.result = event
