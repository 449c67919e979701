"""Runs: a recipe carried out in a folder, from the teachers to the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from pydantic import PositiveFloat
from rich.console import Console
from torch import nn

from edufast.data import DataSet
from edufast.edge.trained import export_trained, latency
from edufast.experiments.events import (
    BudgetEvent,
    Event,
    ExportEvent,
    PhaseEvent,
    ResultEvent,
    RunEvent,
    read_run,
)
from edufast.experiments.method import Equal, Methods, absent_teacher, samples_of_grades
from edufast.experiments.recipe import Method, Recipe, parse_recipe
from edufast.experiments.report import write_report
from edufast.experiments.report.format import mean
from edufast.experiments.schema import Section, read_section
from edufast.experiments.teachers import load_teacher, train_teacher
from edufast.models.weights import ModelInfo, load_model, read_info, save_model
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.teachers.logit_store import countable_views
from edufast.training.curriculum import Curriculum
from edufast.training.evaluation import evaluate_on
from edufast.training.step import worth_compiling
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from edufast.utils.files import atomic_write

PACE_STEPS = 30  # optimiser steps that tell a method's speed, after as many to warm up


class RunConfig(Section):
    """What a run folder is for; its config.yaml.

    Attributes:
        methods: student trainings, in order, each with every seed.
        seeds: of the student's weights and of the order and views of the samples. Teachers use the
            recipe's seed.
        equal: what the other methods are given as much of as education distillation takes.
        seconds: with equal "time": of education distillation; None: it is one of the methods.
        device: "cpu" or a CUDA device.
        export: write and verify student.onnx of the first education graduate.
        teachers: folder of a run whose teachers serve this one, too; None: its own.
        cache: folder of the teachers' logits, read and added to by students, and filled where there
            is no method; None: the teachers answer.
        recipe: resolved, with every default filled in.
    """

    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    equal: Equal = "samples"
    seconds: PositiveFloat | None = None
    device: str = "cpu"
    export: bool = True
    teachers: Path | None = None
    cache: Path | None = None
    recipe: Recipe

    def to_yaml(self) -> str:
        """As stored in config.yaml."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def check_folder(self, folder: Path) -> bool:
        """Whether ``folder`` holds a run of this config already.

        Raises:
            UserError: it holds another one.
        """
        path = folder / "config.yaml"
        if not path.exists():
            return False
        if path.read_text() != self.to_yaml():
            raise UserError(
                f"{folder} holds a run of another recipe or with other options; choose another "
                f"--out, or go on with it: edufast resume {folder}"
            )
        return True

    @classmethod
    def read(cls, folder: Path) -> RunConfig:
        """The config of an existing run.

        Raises:
            UserError: the folder holds no run, or its config.yaml was damaged.
        """
        path = folder / "config.yaml"
        if not path.is_file():
            raise UserError(f"{folder} holds no run: {path} does not exist")
        config = read_section(cls, path)
        parse_recipe(config.recipe.model_dump(mode="json"), f"{path}: recipe")
        return config


class Run:
    """Carries out a config in a folder, and goes on where an earlier attempt stopped.

    The folder gets config.yaml, metrics.jsonl, teachers/, checkpoints/, student.safetensors,
    student.onnx, report.html and plots/.

    Raises:
        UserError: the folder holds a run of another config, or the recipe does not fit its data.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        console: Console | None = None,
        data: DataSet | None = None,
    ) -> None:
        self.config, self.folder = config, folder
        self.console = console or Console(stderr=True)
        if config.equal == "time" and config.seconds is None and "education" not in config.methods:
            raise UserError("equal time: expected education among the methods, whose time it is")
        self.data = data or config.recipe.data.load()
        self.methods = Methods(config.recipe, self.data, config.methods)
        self.recipe = self.methods.recipe
        self.methods.rehearse(config.methods, config.device)
        if config.cache is not None:
            self._check_cacheable()
        if not config.check_folder(folder):
            with atomic_write(folder / "config.yaml") as temporary:
                temporary.write_text(config.to_yaml())
        self.event_log = EventLog(folder / "metrics.jsonl")

    def execute(self) -> dict[str, dict[int, Event]]:
        """Teach, distil, export, report. Returns the ``result`` events by method and seed.

        Raises:
            Interrupted: after Ctrl-C; call again with the same folder to go on.
            TrainingError, ExportError: a step failed; the message says why.
        """
        try:
            results = self.train()
            if self.config.export and "education" in self.config.methods:
                path = self.folder / "student.safetensors"
                loaded = load_model(path, model=self.recipe.student.model)
                self._export(*loaded, "student.onnx")
        finally:
            page = write_report(self.folder)
            self.console.print(f"report: {page}")
        return results

    def train(self) -> dict[str, dict[int, Event]]:
        """The part of :meth:`execute` that trains."""
        finished = self._finished()
        if not finished:
            self._describe()
        faculty = self.teach()
        if isinstance(faculty, CachedFaculty) and not self.config.methods:
            self._fill(faculty)
        # Equal time: the others need to know how long education distillation took.
        order = sorted(self.config.methods, key=lambda method: method != "education")
        for method in order if self.config.equal == "time" else self.config.methods:
            for seed in self.config.seeds:
                if (method, seed) not in finished:
                    finished[method, seed] = self._train(method, seed, faculty)
        return {
            method: {seed: finished[method, seed] for seed in self.config.seeds}
            for method in self.config.methods
        }

    # --- teachers ----------------------------------------------------------------------------

    def teach(self) -> Faculty:
        """Load the teachers that the methods learn from, or train those without weights yet.

        Without any method: all of them.
        """
        methods = self.methods
        needed = methods.teachers(self.config.methods) if self.config.methods else None
        teachers = []
        for k, classes in enumerate(methods.slices):
            if needed is not None and k not in needed:
                teachers.append(absent_teacher(classes))
                continue
            path = self._teacher_path(k)
            if not path.exists():
                train_teacher(
                    self.recipe,
                    k,
                    self.data,
                    path,
                    device=self.config.device,
                    checkpoint=self._checkpoint(f"teacher{k}"),
                    event_log=self.event_log,
                    console=self.console,
                )
            section = self.recipe.teachers[k]
            teachers.append(load_teacher(path, k, classes, self.data, section))
        low = self.recipe.training.precision == "bf16"
        dtype = torch.bfloat16 if low else None
        if self.config.cache is not None:
            return CachedFaculty(teachers, self.config.cache, self.config.device, dtype=dtype)
        return Faculty(teachers, self.config.device, dtype=dtype)

    def _check_cacheable(self) -> None:
        countable_views(self.recipe.create_training().augment)
        for method in self.config.methods:
            if self.methods.algorithm(method).reads_features:
                raise UserError(
                    f"--cache: {self.recipe.algorithm.name} reads the teachers' features, a cache "
                    "holds their logits only"
                )

    def _fill(self, faculty: CachedFaculty) -> None:
        """Store what the teachers say about all that the recipe's student will be shown."""
        faculty.prepare(self.data, self.recipe.create_training().augment)
        self.console.print(
            f"storing the teachers' logits for {faculty.store.views} views of each of "
            f"{len(self.data.train):,} samples"
        )
        count = faculty.fill(self.methods.education.questions(faculty))
        self.console.print(f"{faculty.folder}: logits of {count:,} views stored")

    # --- students ----------------------------------------------------------------------------

    def _train(self, method: str, seed: int, faculty: Faculty) -> Event:
        curriculum = self.methods.curriculum(method, self._budget(method, faculty))
        checkpoint = self._checkpoint(f"{method}-{seed}")
        school = self.methods.school(
            method,
            seed,
            faculty,
            curriculum,
            device=self.config.device,
            event_log=self.event_log,
            checkpoint=checkpoint,
        )
        graduate, at, student = school.fit(), school.progress, school.student
        if method == "education" and seed == self.config.seeds[0]:
            info = ModelInfo.describe(
                self.recipe.student.model,
                self.data,
                range(len(self.data.classes)),
                at.accuracy,
                at.student_flops,
                at.seconds,
            )
            save_model(self.folder / "student.safetensors", graduate, info)
            if self.config.export:
                for depth in student.depths[:-1]:
                    self._export(student.graduate(depth), info, f"student-exit{depth}.onnx")
        for phase, seconds in at.phases.items():
            self.event_log.write(PhaseEvent(method=method, seed=seed, phase=phase, seconds=seconds))
        known = evaluate_on(student, self.data, self.methods.education.class_map)
        trial = read_run(self.folder).methods[method].trials[seed]
        best, epoch = _best(trial.epochs, curriculum)
        teachers = sorted({k for grade in curriculum.grades for k in grade.teachers})
        taught = [read_info(self._teacher_path(k)) for k in teachers]
        result = ResultEvent(
            method=method,
            seed=seed,
            accuracy=at.accuracy,
            best_accuracy=best,
            best_epoch=epoch,
            slice_accuracy=list(known.slices),
            slice_accuracy_masked=list(known.masked),
            samples=at.samples,
            student_flops=at.student_flops,
            teacher_flops=at.teacher_flops,
            teacher_training_flops=sum(info.training_flops for info in taught),
            teacher_training_seconds=sum(info.training_seconds for info in taught),
            seconds=at.seconds,
            # What equal time is about: measuring and compiling are no training.
            training_seconds=at.seconds
            - sum(at.phases.get(phase, 0.0) for phase in ("validation", "compile")),
            data_wait=at.data_wait,
        )
        self.event_log.write(result)
        self.console.print(
            f"{method}, seed {seed}: {at.accuracy:.1%} (best {best:.1%} after epoch {epoch}), "
            f"{at.samples:,} samples, {at.student_flops / 1e12:.2f} TFLOP, {at.seconds:.0f} s"
        )
        return result.to_dict()

    # --- budgets -----------------------------------------------------------------------------

    def _budget(self, method: str, faculty: Faculty) -> int | None:
        """Training samples of a method: worked out once, then read from the event_log."""
        if method == "education":
            return None
        log = read_run(self.folder)
        known = log.methods[method].budget if method in log.methods else None
        if known is not None:
            return int(known["samples"])
        fields: dict[str, float] = {}
        if self.config.equal == "time":
            seconds = self.config.seconds or mean(
                [result["training_seconds"] for result in log.methods["education"].results]
            )
            pace = self._pace(method, faculty)
            samples = round(seconds * pace)
            fields = {"seconds": seconds, "images_per_second": pace}
        else:
            samples = self.methods.samples(method, self.config.equal)
        self.event_log.write(
            BudgetEvent(method=method, equal=self.config.equal, samples=samples, **fields)
        )
        return samples

    def _pace(self, method: str, faculty: Faculty) -> float:
        """Images a second that ``method`` trains on, all its grades together."""
        curriculum, training = self.methods.curriculum(method), self.recipe.create_training()
        seen = samples_of_grades(curriculum, self.data, training.batch_size)
        if training.compile == "auto":  # as the whole training will decide, not this short one
            student = self.methods.student(method, 0).to(self.config.device)
            student.grow(fragments=curriculum.fragments[-1], classes=student.num_classes)
            pays, _ = worth_compiling(
                student, training.batch_size, steps=seen[-1] // training.batch_size
            )
            training = replace(training, compile=pays)
        short = PACE_STEPS * training.batch_size
        grades = [replace(grade, epochs=2, samples=short) for grade in curriculum.grades]
        with TemporaryDirectory() as folder:
            seed = self.config.seeds[0]
            self.methods.school(
                method,
                seed,
                faculty,
                replace(curriculum, grades=grades),
                device=self.config.device,
                training=training,
                event_log=EventLog(Path(folder) / "metrics.jsonl"),
            ).fit()
            epochs = read_run(Path(folder)).methods[method].trials[seed].epochs
        speeds = [event["images_per_second"] for event in epochs if event["epoch"] == 1]
        return sum(seen) / sum(n / speed for n, speed in zip(seen, speeds, strict=True))

    # --- export and bookkeeping --------------------------------------------------------------

    def _export(self, model: nn.Module, info: ModelInfo, name: str) -> None:
        report = export_trained(model, info, self.data, self.folder / name)
        milliseconds = latency(report.path, info.image_size)
        share = evaluate_on(model, self.data, info.class_map).overall
        self.event_log.write(
            ExportEvent(**report.to_dict(), accuracy=share, latency_ms=milliseconds)
        )
        self.console.print(
            f"exported {report.path} ({share:.1%}, {report.bytes / 1e6:.2f} MB, "
            f"{milliseconds:.2f} ms an image on one thread), agreement with PyTorch "
            f"{report.parity.agreement:.1%}"
        )

    def _describe(self) -> None:
        curriculum = self.methods.education
        self.event_log.write(
            RunEvent(
                name=self.recipe.name,
                dataset=self.data.name,
                classes=list(self.data.classes),
                num_classes=len(self.data.classes),
                device=self.config.device,
                torch=torch.__version__,
                student=self.recipe.student.model,
                split="holdout" if self.recipe.data.holdout else "validation",
                equal=self.config.equal,
                slices=[list(grade.classes) for grade in curriculum.grades if grade.classes],
                grades=[
                    {
                        "grade": g + 1,
                        "fragments": curriculum.fragments[g],
                        "classes": len(curriculum.taught(g)),
                        "epochs": grade.epochs,
                        "target": grade.target,
                    }
                    for g, grade in enumerate(curriculum.grades)
                ],
            )
        )

    def _finished(self) -> dict[tuple[str, int], Event]:
        if not (self.folder / "metrics.jsonl").exists():
            return {}
        methods = read_run(self.folder).methods.values()
        return {(m.name, result["seed"]): result for m in methods for result in m.results}

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.pt"

    def _teacher_path(self, k: int) -> Path:
        folder = (self.config.teachers or self.folder) / "teachers"
        return self.recipe.teachers[k].weights or folder / f"teacher{k}.safetensors"


def _best(epochs: Sequence[Event], curriculum: Curriculum) -> tuple[float, int]:
    """Best accuracy, and after which epoch (from 1), of those in which all classes are taught."""
    count = len(curriculum.class_map)
    complete = [
        (event["accuracy"], number)
        for number, event in enumerate(epochs, start=1)
        if len(curriculum.taught(event["grade"] - 1)) == count
    ]
    return max(complete, key=lambda pair: (pair[0], -pair[1]))
