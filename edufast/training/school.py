"""The training loop: grade by grade and step by step, resumable at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from edufast.data import Batch, DataSet, Loader
from edufast.data.erasing import erased
from edufast.data.image_files import naming_unreadable
from edufast.data.mixing import mixed, smoothed
from edufast.data.policy import altered
from edufast.distill import Algorithm, create_algorithm
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.arguments import check_same, described
from edufast.training.checkpoint import (
    load_optimizer,
    restore,
    save_checkpoint,
)
from edufast.training.checks import check_fit, check_kinds, not_finite
from edufast.training.curriculum import Curriculum
from edufast.training.evaluation import Accuracy, tally
from edufast.training.events import EpochEvent, StepEvent
from edufast.training.grade_plan import GradePlan, plan_grades
from edufast.training.growth import Growth
from edufast.training.loaders import grade_seed, validation_batches
from edufast.training.progress import Progress
from edufast.training.records import Records
from edufast.training.settings import SchoolOptions, Training
from edufast.training.step import TrainStep
from edufast.utils import ranks
from edufast.utils.collectives import all_sum, broadcast_, share_random_state
from edufast.utils.errors import Interrupted, TrainingError
from edufast.utils.progress import TrainingBar
from edufast.utils.ranks import Stop
from edufast.utils.registry import call_user
from edufast.utils.signals import deferred_interrupt

LOG_EVERY = 20  # steps between reads of the loss; each read waits for the device


class School:
    """Teaches a student according to a curriculum.

    :meth:`fit` does all of it. A custom loop calls :meth:`begin_grade` for each grade,
    :meth:`begin_epoch` for each of its epochs, and :meth:`train_step` for each batch of
    ``loader``.

    Where torchrun has started several processes, each makes a School with the same arguments, and
    they train one student together, as a single process would: see docs/distributed.md.

    Args:
        student: must not have grown yet. Its classes become those of the curriculum.
        faculty: the teachers that the grades refer to.
        curriculum: the grades. Its class ids are the data set's.
        data: to train and validate on.
        algorithm: how to distil; a name from ``edufast.distill`` or an object, which must not have
            learned adapters yet.
        training: settings of the optimisation.
        options: device, seed, event log, checkpoint and name.

    Attributes:
        progress: where the training stands.
        plans: of all grades.

    Raises:
        ValueError: curriculum, student, faculty, data and algorithm do not fit together.
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
        options: SchoolOptions | None = None,
    ) -> None:
        check_kinds(student, faculty, curriculum, data, algorithm, training, options)
        self.options = options or SchoolOptions()
        self.device = torch.device(self.options.device)
        ranks.join()
        ranks.check_device(self.device)
        self.faculty, self.curriculum, self.data = faculty, curriculum, data
        algorithm = create_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
        self.training = training or Training()
        self.progress = Progress()
        check_fit(student, faculty, curriculum, data, algorithm, self.training)
        self._arguments = described(student, faculty, curriculum, data, algorithm, self.training)
        self.student = student.to(self.device)
        self.student.to_faster_layout()
        self.algorithm = algorithm.to(self.device)
        quiet = not ranks.is_first()
        self._bar = TrainingBar(self.options.name, len(curriculum.grades), quiet=quiet)
        self._records = Records(self.options, len(curriculum.class_map.slices), self._bar.say)
        self._positions = curriculum.class_map.positions(self.device)
        self.plans = plan_grades(
            curriculum,
            faculty,
            data,
            self.training,
            temperature=self.algorithm.temperature,
            seed=self.options.seed,
            device=self.device,
        )
        self._growth = Growth(
            student,
            self.algorithm,
            curriculum,
            [plan.supervision for plan in self.plans],
            self.training,
            torch.as_tensor(data.train.labels, device=self.device),
        )
        broadcast_([*student.state_dict().values(), *self.algorithm.state_dict().values()])
        share_random_state(self.device)
        faculty.prepare(data, self.training.augment)
        self._step: TrainStep | None = None
        self._validation: Loader | None = None
        self._flops = 0  # of a training step in the current epoch, per image
        self._rate = 0.0  # the last step's learning rate

    @property
    def plan(self) -> GradePlan:
        """The current grade's plan.

        Raises:
            RuntimeError: all grades have been taught.
        """
        if self.progress.grade >= len(self.plans):
            raise RuntimeError(f"all {len(self.plans)} grades have been taught; none is current")
        return self.plans[self.progress.grade]

    @property
    def loader(self) -> Loader:
        """Batches of the current grade."""
        return self.plan.loader

    @property
    def evaluated(self) -> Student:
        """What is validated and graduates: the student or, with ``training.ema``, its average."""
        average = self._growth.average
        return self.student if average is None else average.student

    @property
    def step(self) -> TrainStep:
        """The training step of the current grade.

        Raises:
            RuntimeError: no grade has begun.
        """
        if self._step is None:
            raise RuntimeError("no grade has begun yet: call begin_grade() first")
        return self._step

    # --- the whole training ------------------------------------------------------------------

    def fit(self, after_epoch: Callable[[], str] = lambda: "") -> nn.Module:
        """Teach every grade and return the graduate: a plain module in eval mode, its logits in the
        order of class ids.

        Args:
            after_epoch: called, by every process, when an epoch has been validated; what it returns
                is added to the line about the epoch.

        Raises:
            Interrupted: after Ctrl-C; the checkpoint holds everything, and a School made with the
                same arguments resumes at the same step.
            TrainingError: the loss is not finite.
            LostRank: another process of the training has ended.
            UserError: the checkpoint is of another version or another training.
        """
        if self.options.checkpoint is not None:
            restore(self.options.checkpoint, self.load_state_dict, self._bar.say)
        splits = self.data.train, self.data.val
        with naming_unreadable(*splits), deferred_interrupt() as interrupted, self._bar:
            stop = Stop(interrupted, self.device)
            while self.progress.grade < len(self.plans):
                self._teach_grade(stop, after_epoch)
                self.progress.grade += 1
                self.progress.epoch = 0
                self._save()
        return self.evaluated.graduate()

    def _teach_grade(self, stop: Stop, after_epoch: Callable[[], str]) -> None:
        at = self.progress
        self.begin_grade()
        while not self._ended(at.epoch):
            loss, speed = self._train_epoch(stop)
            accuracy = self.validate()
            self._keep_best()
            self._bar.end_epoch(loss, accuracy.overall, speed, after_epoch())
            self._records.write(
                at,
                EpochEvent,
                samples=at.samples,
                accuracy=accuracy.overall,
                loss=loss,
                images_per_second=speed,
                student_flops=at.student_flops,
                teacher_flops=at.teacher_flops,
            )
            if self._ended(at.epoch + 1):
                self._records.grade(at, self.student, accuracy)
            at.epoch, at.step, at.loss_sum = at.epoch + 1, 0, 0.0
            self._save()
            if stop(now=True):
                raise Interrupted(self.options.name)

    def _train_epoch(self, stop: Stop) -> tuple[float, float]:
        """Train the rest of an epoch; returns its mean loss, and the images per second now."""
        at, started, first_step = self.progress, time.perf_counter(), self.progress.step
        loader = self.loader
        self._bar.start_epoch(at.grade, at.epoch, self.plan.grade.epochs, len(loader))
        self.begin_epoch()
        loss_sum = torch.full((), at.loss_sum, device=self.device)
        mean = speed = math.nan
        batches = loader.epoch(at.epoch, start=at.step)
        while at.step < len(loader):
            with at.phase("data"):
                batch = next(batches)
            loss_sum += self.train_step(batch)
            if at.step % LOG_EVERY == 0 or at.step == len(loader):
                steps = at.step - first_step
                with at.phase("device"):
                    mean = self._finite(loss_sum / at.step, batch)
                speed = steps * len(batch.whole.labels) / (time.perf_counter() - started)
                self._bar.update(at.step, mean, speed)
                self._records.write(
                    at,
                    StepEvent,
                    step=at.step,
                    samples=at.samples,
                    loss=mean,
                    lr=self._rate,
                    images_per_second=speed,
                )
            if stop() and at.step < len(loader):
                at.loss_sum = loss_sum.item()
                self._account(started)
                self._save()
                raise Interrupted(self.options.name)
        self._account(started)
        return mean, speed

    # --- a grade, an epoch, a step -----------------------------------------------------------

    def begin_grade(self) -> None:
        """Bring student, algorithm and optimiser into the current grade.

        Raises:
            RuntimeError: all grades have been taught.
        """
        plan = self.plan
        # A School of other data may have prepared the faculty since this one was made.
        self.faculty.prepare(self.data, self.training.augment)
        with self.progress.phase("growth"):
            self._growth.begin(self.progress.grade)
        self._step = TrainStep(
            self.student,
            self.algorithm,
            self._growth.optimizer,
            self.training,
            average=self._growth.average,
            exit_weight=self.curriculum.exit_weight,
            steps=plan.steps,
            alike=self.curriculum.order == "mixed",
        )
        # Building the pipeline of a loader takes time: once a grade, not once an epoch. On a GPU
        # larger batches make fewer launches; activations are not kept for gradients.
        larger = 4 if self.device.type == "cuda" else 1
        self._validation = validation_batches(
            self.data,
            self.curriculum,
            self.progress.grade,
            larger * self.training.batch_size,
            device=self.device,
        )
        self._records.compiled(self.progress, self.step, self.training)

    def begin_epoch(self) -> None:
        """Freeze what no longer learns, notify the algorithm, put the student in train mode."""
        at = self.progress
        self.student.frozen = self.plan.grade.frozen(at.epoch)
        self.step.renew()
        self._flops = self.student.training_flops()
        total = sum(plan.grade.epochs for plan in self.plans)
        what = f"{type(self.algorithm).__name__}.begin_epoch"
        call_user(what, self.algorithm.begin_epoch, self._epochs_done(), total)
        self.student.train()

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser step on a batch of ``loader``; returns the loss of the whole batch, still
        on the device."""
        at, step, compiled = self.progress, self.step, self.step.compiled
        self._set_learning_rate()
        targets = self._positions[batch.whole.labels]
        batch, targets = self._altered(batch, targets)
        with at.phase("teachers"):
            outputs = self.plan.supervision(batch, targets)
        if self.training.label_smoothing:
            targets = smoothed(targets, self.student.classes, self.training.label_smoothing)
        with at.phase(step.phase):
            loss = step(batch.images, targets, outputs)
        if step.compiled != compiled:
            self._records.compiled(self.progress, self.step, self.training)
        at.step += 1
        at.samples += len(targets)
        at.student_flops += self._flops * len(targets)
        return loss

    def validate(self) -> Accuracy:
        """Accuracy of :attr:`evaluated` on the validation samples of all classes taught so far.

        Raises:
            RuntimeError: no grade has begun.
        """
        at, started = self.progress, time.perf_counter()
        if self._validation is None:
            raise RuntimeError("no grade has begun yet: call begin_grade() first")
        with at.phase("validation"):
            counts = tally(
                self.evaluated,
                self._validation.epoch(0),
                self.curriculum.taught(at.grade),
                precision=self.training.precision,
            )
            accuracy = Accuracy.of(all_sum(counts))
        at.seconds += time.perf_counter() - started
        at.accuracy = accuracy.overall
        return accuracy

    # --- helpers -----------------------------------------------------------------------------

    def _epochs_done(self) -> int:
        """Over all grades."""
        at = self.progress
        return sum(plan.grade.epochs for plan in self.plans[: at.grade]) + at.epoch

    def _altered(self, batch: Batch, targets: Tensor) -> tuple[Batch, Tensor]:
        """The batch with its images altered, erased and mixed, as ``training`` says."""
        at, data, training = self.progress, self.data, self.training
        seed = grade_seed(self.options.seed, at.grade)
        where = {"seed": seed, "epoch": at.epoch, "iteration": at.step}
        if training.policy != "none":
            batch = altered(training.policy, batch, mean=data.mean, std=data.std, **where)
        if training.erase:
            batch = erased(training.erase, batch, **where)
        if training.mix != "none":
            return mixed(training.mix, batch, targets, self.student.classes, **where)
        return batch, targets

    def _ended(self, epochs: int) -> bool:
        """Whether the current grade ends after so many of its epochs."""
        at, patience = self.progress, self.training.patience
        if epochs >= self.plan.grade.epochs:
            return True
        if not patience or at.grade + 1 < len(self.plans):
            return False
        before = self._epochs_done() - at.epoch
        return before + epochs - max(before, at.best_epoch) >= patience

    def _keep_best(self) -> None:
        at, curriculum = self.progress, self.curriculum
        complete = len(curriculum.taught(at.grade)) == len(curriculum.class_map)
        if complete and (not at.best_epoch or at.accuracy > at.best_accuracy):
            at.best_accuracy, at.best_epoch = at.accuracy, self._epochs_done() + 1

    def _set_learning_rate(self) -> None:
        at, steps = self.progress, [plan.steps for plan in self.plans]
        step = at.epoch * len(self.loader) + at.step
        self._rate = self.training.lr * self.curriculum.learning_rate(at.grade, step, steps)
        self.training.set_rate(self._growth.optimizer, self._rate)

    def _finite(self, loss: Tensor, batch: Batch) -> float:
        value = loss.item()
        if not math.isfinite(value):
            at, train = self.progress, self.data.train
            cause = not_finite(self.faculty, self.plan.grade.teachers, batch, train)
            raise TrainingError(
                f"the loss is {value} in grade {at.grade + 1}, epoch {at.epoch + 1}, step {at.step}"
                f" or shortly before; {cause or 'a lower learning rate or temperature may help'}"
            )
        return value

    def _account(self, started: float) -> None:
        self.progress.seconds += time.perf_counter() - started
        size = (3, self.data.image_size, self.data.image_size)
        visits = self.plan.supervision.visits
        of_all = all_sum(torch.tensor(visits, device=self.device)).tolist()
        for k, count in enumerate(of_all):
            if count:
                self.progress.teacher_flops += count * self.faculty.flops(k, size)
                visits[k] = 0

    # --- state -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to resume; tensors are not copied.

        Raises:
            RuntimeError: no grade has begun.
        """
        state = {
            "name": self.options.name,
            "seed": self.options.seed,
            "arguments": self._arguments,
            "progress": asdict(self.progress),
            "begun": self._growth.begun,
            "student": self.student.state_dict(),
            "algorithm": self.algorithm.state_dict(),
            "optimizer": self._growth.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if self._growth.average is not None:
            state["average"] = self.evaluated.state_dict()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the state of a School made with the same arguments.

        Raises:
            ValueError: it is the state of another training.
        """
        found, expected = (state["name"], state["seed"]), (self.options.name, self.options.seed)
        if found != expected:
            raise ValueError(
                f"the checkpoint is of {found[0]} with seed {found[1]}; expected {expected[0]} "
                f"with seed {expected[1]}"
            )
        if ("average" in state) != (self.training.ema > 0):
            raise ValueError(
                f"the checkpoint has {'an' if 'average' in state else 'no'} average of the "
                f"student; expected that of a training with ema {self.training.ema:g}"
            )
        check_same(state["arguments"], self._arguments)
        at = Progress(**state["progress"])
        current = self.plans[min(at.grade, len(self.plans) - 1)]
        at.check(grade=len(self.plans), epoch=current.grade.epochs, step=len(current.loader))
        if state["begun"] not in (at.grade, at.grade + 1):
            raise ValueError(f"begun is {state['begun']}; expected {at.grade} or {at.grade + 1}")
        self.progress = at
        # Not progress.grade: once a grade ends, that is the next one, which has not begun.
        self._growth.begin(state["begun"] - 1)
        self.student.load_state_dict(state["student"])
        if self._growth.average is not None:
            self.evaluated.load_state_dict(state["average"])
        self.algorithm.load_state_dict(state["algorithm"])
        load_optimizer(self._growth.optimizer, state["optimizer"])
        if self._step is not None:
            self._step.renew()
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)

    def _save(self) -> None:
        if self.options.checkpoint is not None and ranks.is_first():
            save_checkpoint(self.options.checkpoint, self.state_dict())
