"""The training loop: grades in order, one step after another, resumable at every one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edufast.data import Batch, DataSet, Loader
from edufast.distill import Algorithm, create_algorithm
from edufast.student.student import Student
from edufast.teachers.cached_faculty import LogitCache
from edufast.teachers.faculty import Faculty
from edufast.teachers.supervision import Supervision
from edufast.training.checkpoint import load_checkpoint, save_checkpoint
from edufast.training.curriculum import Curriculum
from edufast.training.evaluation import Accuracy, evaluate
from edufast.training.events import CompileEvent, EpochEvent, GradeEvent, StepEvent, TrainingEvent
from edufast.training.growth import Growth
from edufast.training.loaders import training_batches, validation_batches
from edufast.training.settings import Training
from edufast.training.step import TrainStep
from edufast.utils.errors import Interrupted, TrainingError
from edufast.utils.event_log import EventLog
from edufast.utils.progress import TrainingProgress
from edufast.utils.signals import deferred_interrupt

LOG_EVERY = 20  # steps between reads of the loss; each read waits for the device


@dataclass
class Progress:
    """Where a training stands, and what it has used so far. Saved with every checkpoint."""

    grade: int = 0
    epoch: int = 0  # within the grade
    step: int = 0  # within the epoch
    samples: int = 0
    student_flops: int = 0
    teacher_flops: int = 0
    accuracy: float = math.nan
    seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def data_wait(self) -> float:
        """Share of the time outside validation in which a step waited for its batch."""
        spent = self.seconds - self.phases.get("validation", 0.0)
        return self.phases.get("data", 0.0) / spent if spent > 0 else 0.0


class School:
    """Teaches a student by a curriculum.

    Args:
        student: with nothing grown yet.
        faculty: the teachers the curriculum's grades name.
        curriculum: the grades. Its class ids are the data set's.
        data: what to learn and to validate on.
        algorithm: how to distil; a name from ``edufast.distill`` or an object.
        training: the optimiser's settings.
        device: where the student trains; the faculty must be there too.
        seed: of the order and the views of the samples.
        event_log: gets an event for every epoch and grade.
        checkpoint: file that keeps the training resumable; :meth:`fit` goes on from it if it is
            there. None: not resumable.
        method: name of this training in event_log and progress bar.
        cache: of the faculty's logits for this data and augmentation; algorithms that read
            features have no use for it.

    Raises:
        ValueError: curriculum, student, faculty, data, algorithm and cache do not fit together.
    """

    def __init__(
        self,
        student: Student,
        faculty: Faculty,
        curriculum: Curriculum,
        data: DataSet,
        *,
        algorithm: str | Algorithm = "kd",
        training: Training | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        event_log: EventLog | None = None,
        checkpoint: Path | None = None,
        method: str = "education",
        cache: LogitCache | None = None,
    ) -> None:
        self.student = student.to(device).to(memory_format=torch.channels_last)
        self.faculty = faculty
        self.curriculum = curriculum
        self.data = data
        algorithm = create_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
        self.algorithm = algorithm.to(device)
        self.training = training or Training()
        self.device = torch.device(device)
        self.seed = seed
        self.event_log = event_log or EventLog()
        self.checkpoint = checkpoint
        self.method = method
        self.cache = cache
        self.progress = Progress()
        self._check()
        order = torch.tensor(curriculum.class_order)
        self._rank = (
            torch.full((len(data.classes),), -1)
            .index_copy_(0, order, torch.arange(len(order)))
            .to(self.device)
        )
        self._supervisions = [self._supervision(g) for g in range(len(curriculum.grades))]
        self._loaders = [
            training_batches(
                data,
                curriculum,
                g,
                supervision.groups,
                self.training,
                seed=seed,
                device=self.device,
            )
            for g, supervision in enumerate(self._supervisions)
        ]
        self._steps = [
            grade.epochs * len(loader)
            for grade, loader in zip(curriculum.grades, self._loaders, strict=True)
        ]
        class_ids = torch.as_tensor(data.train.labels, device=self.device)
        self._growth = Growth(
            student,
            self.algorithm,
            curriculum,
            self._supervisions,
            faculty,
            self.training,
            class_ids,
            labels=self._rank[class_ids],
        )
        self._train_step: TrainStep | None = None

    @property
    def compiles(self) -> int:
        """How often the step of the grade at hand was compiled: never or once."""
        return 0 if self._train_step is None else self._train_step.compiles

    def fit(self) -> nn.Module:
        """Teach every grade and return the graduate: a plain module in eval mode.

        Raises:
            Interrupted: after Ctrl-C; the checkpoint holds everything, and a School made of the
                same arguments goes on at the same step.
            TrainingError: the loss is not finite.
        """
        if self.checkpoint is not None and self.checkpoint.exists():
            self._restore(load_checkpoint(self.checkpoint))
        grades = len(self.curriculum.grades)
        progress = TrainingProgress(self.method, grades)
        with deferred_interrupt() as interrupted, progress as bar:
            while self.progress.grade < grades:
                self._teach_grade(interrupted, bar)
                self.progress.grade += 1
                self.progress.epoch = 0
                self._save()
        return self.student.graduate()

    # --- a grade, an epoch, a step -----------------------------------------------------------

    def _teach_grade(self, interrupted: Callable[[], bool], bar: TrainingProgress) -> None:
        at = self.progress
        grade = self.curriculum.grades[at.grade]
        supervision = self._supervisions[at.grade]
        self._begin_grade(bar.say)
        validation = validation_batches(
            self.data, self.curriculum, at.grade, self.training.batch_size, device=self.device
        )
        while at.epoch < grade.epochs:
            loss, speed = self._train_epoch(supervision, interrupted, bar)
            accuracy = self._validate(validation)
            bar.end_epoch(loss, accuracy.overall, speed)
            self._log(
                EpochEvent,
                samples=at.samples,
                accuracy=accuracy.overall,
                loss=loss,
                images_per_second=speed,
                student_flops=at.student_flops,
                teacher_flops=at.teacher_flops,
            )
            if at.epoch + 1 == grade.epochs:
                self._report_grade(accuracy)
            at.epoch, at.step = at.epoch + 1, 0
            self._save()
            if interrupted():
                raise Interrupted(self.method)

    def _train_epoch(
        self, supervision: Supervision, interrupted: Callable[[], bool], bar: TrainingProgress
    ) -> tuple[float, float]:
        """Train the rest of an epoch; returns its mean loss and its images per second."""
        at, started, first_step = self.progress, time.perf_counter(), self.progress.step
        grade, loader = self.curriculum.grades[at.grade], self._loaders[at.grade]
        bar.start_epoch(at.grade, at.epoch, grade.epochs, len(loader))
        self.student.frozen = grade.frozen(at.epoch)
        flops = self.student.training_flops()
        loss_sum = torch.zeros((), device=self.device)
        epochs = [grade.epochs for grade in self.curriculum.grades]
        self.algorithm.begin_epoch(sum(epochs[: at.grade]) + at.epoch, sum(epochs))
        mean = speed = math.nan
        self.student.train()
        batches = loader.epoch(at.epoch, start=at.step)
        while at.step < len(loader):
            with self._phase("data"):
                batch = next(batches)
            rate = self._set_learning_rate()
            loss_sum += self._step(batch, supervision)
            at.step += 1
            at.samples += len(batch.labels)
            at.student_flops += flops * len(batch.labels)
            if at.step % LOG_EVERY == 0 or at.step == len(loader):
                steps = at.step - first_step
                with self._phase("device"):
                    mean = self._finite(loss_sum / steps)
                speed = steps * len(batch.labels) / (time.perf_counter() - started)
                bar.update(at.step, mean, speed)
                self._log(StepEvent, step=at.step, loss=mean, lr=rate, images_per_second=speed)
            if interrupted() and at.step < len(loader):
                self._account(supervision, started)
                self._save()
                raise Interrupted(self.method)
        self._account(supervision, started)
        return mean, speed

    def _step(self, batch: Batch, supervision: Supervision) -> Tensor:
        """One optimiser step; returns the loss, still on the device."""
        step = self._train_step
        assert step is not None
        labels = self._rank[batch.labels]
        with self._phase("teachers"):
            outputs = supervision(batch, labels)
        with self._phase(step.phase):
            loss = step.learn(batch.images, labels, outputs)
        with self._phase("optimizer"):
            step.update()
        return loss

    def _validate(self, loader: Loader) -> Accuracy:
        at, started = self.progress, time.perf_counter()
        slices = [len(g.classes) for g in self.curriculum.grades[: at.grade + 1] if g.classes]
        with self._phase("validation"):
            accuracy = evaluate(
                self.student,
                loader.epoch(0),
                self._rank,
                slices,
                precision=self.training.precision,
            )
        at.seconds += time.perf_counter() - started
        at.accuracy = accuracy.overall
        return accuracy

    # --- pieces ------------------------------------------------------------------------------

    def _begin_grade(self, say: Callable[[str], None]) -> None:
        """Grow, and make the step; ``say`` gets a line on whether it will be compiled."""

        def announce(compiled: bool, reason: str) -> None:
            self._log(CompileEvent, compiled=compiled, reason=reason)
            if self.training.compile == "auto":
                say(f"{'compiled' if compiled else 'not compiled'}: {reason}")

        grade = self.progress.grade
        with self._phase("growth"):
            optimizer = self._growth.begin(grade)
        self._train_step = TrainStep(
            self.student,
            self.algorithm,
            optimizer,
            self.training,
            exit_weight=self.curriculum.exit_weight,
            steps=self._steps[grade],
            alike=self.curriculum.order == "mixed",
            announce=announce,
        )

    def _set_learning_rate(self) -> float:
        assert self._growth.optimizer is not None
        at = self.progress
        step = at.epoch * len(self._loaders[at.grade]) + at.step
        rate = self.training.lr * self.curriculum.learning_rate(at.grade, step, self._steps)
        for group in self._growth.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _finite(self, loss: Tensor) -> float:
        value = loss.item()
        if not math.isfinite(value):
            at = self.progress
            raise TrainingError(
                f"the loss is {value} in grade {at.grade + 1}, epoch {at.epoch + 1}, step {at.step}"
                " or shortly before; a lower learning rate or temperature may help"
            )
        return value

    def _account(self, supervision: Supervision, started: float) -> None:
        self.progress.seconds += time.perf_counter() - started
        size = (3, self.data.image_size, self.data.image_size)
        for k, visits in enumerate(supervision.visits):
            if visits:
                self.progress.teacher_flops += visits * self.faculty.flops(k, size)
                supervision.visits[k] = 0

    def _report_grade(self, accuracy: Accuracy) -> None:
        slices = sum(bool(grade.classes) for grade in self.curriculum.grades)
        untaught = [None] * (slices - len(accuracy.slices))
        self._log(
            GradeEvent,
            classes=self.student.classes,
            fragments=self.student.grown,
            accuracy=accuracy.overall,
            slice_accuracy=[*accuracy.slices, *untaught],
            slice_accuracy_masked=[*accuracy.masked, *untaught],
        )

    def _supervision(self, g: int) -> Supervision:
        grade, taught = self.curriculum.grades[g], self.curriculum.classes_taught(g)
        temperature = self.algorithm.temperature
        return Supervision(
            self.faculty, grade.teachers, grade.target, taught, temperature, cache=self.cache
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.progress.phases[name] = self.progress.phases.get(name, 0.0) + spent

    def _log(self, event: type[TrainingEvent], **fields: Any) -> None:
        at = self.progress
        where: dict[str, Any] = {
            "method": self.method,
            "seed": self.seed,
            "grade": at.grade + 1,
            "epoch": at.epoch,
        }
        self.event_log.write(event(**where, **fields))

    def _check(self) -> None:
        if self.cache is not None:
            if self.algorithm.reads_features:
                raise ValueError(
                    f"cache: {type(self.algorithm).__name__} reads the teachers' features, a cache "
                    "holds their logits only"
                )
            self.cache.check(self.faculty, self.data, self.training.augment)
        unknown = [c for c in self.curriculum.class_order if not 0 <= c < len(self.data.classes)]
        if unknown:
            raise ValueError(
                f"the curriculum teaches class {unknown[0]}; {self.data.name} has "
                f"{len(self.data.classes)}"
            )
        if self.training.compile is True and self.curriculum.order == "slices":
            raise ValueError(
                "compile is True, but slice after slice the composition of batches changes, and "
                "each would be compiled; expected compile 'auto' or False, or the order 'mixed'"
            )

    # --- checkpoints -------------------------------------------------------------------------

    def _save(self) -> None:
        if self.checkpoint is None or self._growth.optimizer is None:
            return
        state = {
            "progress": vars(self.progress),
            "begun": self._growth.begun,
            "student": self.student.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "optimizer": self._growth.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "seed": self.seed,
            "method": self.method,
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.checkpoint, state)

    def _restore(self, state: dict[str, Any]) -> None:
        if (state["method"], state["seed"]) != (self.method, self.seed):
            raise ValueError(
                f"{self.checkpoint} is of {state['method']} with seed {state['seed']}; expected "
                f"{self.method} with seed {self.seed}"
            )
        self.progress = Progress(**state["progress"])
        # Not progress.grade: a grade that is over is saved before the next one begins.
        optimizer = self._growth.begin(state["begun"] - 1)
        self.student.load_state_dict(state["student"])
        self.algorithm.load_state_dict(state["algorithm"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
