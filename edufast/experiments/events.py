"""What a run writes to metrics.jsonl."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edufast.edge.device_rows import DeviceRow
from edufast.utils.event_log import Event

if TYPE_CHECKING:
    from edufast.edge.export import ExportReport

# In what methods have equal budgets: training samples, FLOPs of the student (its teachers' come on
# top), or seconds of training (without validation).
Equal = Literal["samples", "flops", "time"]
# Where accuracy is measured: on the data set's validation split, or held out of the training split.
Split = Literal["validation", "holdout"]
# An exported file: its format, and the number of fragments of an exit; None: the whole student.
FileKey = tuple[str, int | None]


@dataclass(frozen=True, kw_only=True)
class PlannedGrade:
    """One grade of the recipe's curriculum.

    Attributes:
        grade: counted from 1.
        fragments, classes: that there are in it, those of earlier grades included.
        image_size: height and width of the images that the student sees.
    """

    grade: int
    fragments: int
    classes: int
    image_size: int
    epochs: int
    target: str


@dataclass(frozen=True, kw_only=True)
class RunEvent(Event):
    """When a run begins: what it is about.

    Attributes:
        classes: names of the data set's classes.
        slices: class ids that each grade adds; None, like ``grades``: of a sweep whose variants
            differ in them.
        config: the resolved config as JSON types, which the run keeps; None: of a sweep.
        fitting: the files that fit the recipe's budget; None: it has no budget.
    """

    kind: ClassVar[str] = "run"
    name: str
    dataset: str
    classes: list[str]
    num_classes: int
    device: str
    torch: str
    student: str
    split: Split
    equal: Equal
    slices: list[list[int]] | None = None
    grades: list[PlannedGrade] | None = None
    config: dict[str, Any] | None = None
    fitting: list[FileKey] | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherEvent(Event):
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
class BudgetEvent(Event):
    """How many samples a method trains on; for equal time also what that follows from."""

    kind: ClassVar[str] = "budget"
    method: str
    equal: Equal
    samples: int
    seconds: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True, kw_only=True)
class RemainingEvent(Event):
    """After every epoch of a teacher or a student: how far the whole run is.

    Attributes:
        method: name of the training that is under way.
        done: share of the run's planned seconds.
        seconds_left: until the run ends, about.
    """

    kind: ClassVar[str] = "remaining"
    method: str
    seed: int
    done: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class PhaseEvent(Event):
    """Seconds that a student's training spent in one of its phases."""

    kind: ClassVar[str] = "phase"
    method: str
    seed: int
    phase: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ResultEvent(Event):
    """A student was trained: how good it is and what it took.

    Attributes:
        best_epoch: counted from 1, over all grades.
        slice_accuracy, slice_accuracy_masked: see :class:`edufast.training.evaluation.Accuracy`.
        training_seconds: ``seconds`` without validation and compilation.
        data_wait: share of the time in which the training waited for its batches.
    """

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
class ExportEvent(Event):
    """A student was exported and verified.

    Attributes:
        noise: it was compared with PyTorch on random images, not on ``samples`` of the data set.
        accuracy, accuracy_torch: of the file and of the model, over the whole validation split.
        latency_ms: of one image on one thread.
        peak_bytes, runtime_bytes: see :class:`edufast.edge.device_rows.DeviceRow`.
        exit, early: of an exit, and of a program with early exits.
        format, difference, interval, worst_class, latency_p95_ms, load_ms, torch_latency_ms: see
            :class:`edufast.edge.export.ExportReport`; None where an earlier version wrote it.
    """

    kind: ClassVar[str] = "export"
    path: str
    opset: int | None = None
    bytes: int
    noise: bool
    samples: int
    agreement: float
    accuracy_torch: float | None = None
    max_abs_difference: float
    accuracy: float
    latency_ms: float
    format: str | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    worst_class: dict[str, Any] | None = None
    latency_p95_ms: float | None = None
    load_ms: float | None = None
    torch_latency_ms: float | None = None
    peak_bytes: int | None = None
    runtime_bytes: int | None = None
    exit: int | None = None
    early: dict[str, Any] | None = None

    @classmethod
    def of(cls, report: ExportReport) -> ExportEvent:
        """Of an export that was verified on the whole validation split."""
        return cls(**report.to_dict())


@dataclass(frozen=True, kw_only=True)
class DeviceEvent(Event, DeviceRow):
    """How an exported file does on a machine."""

    kind: ClassVar[str] = "device"
