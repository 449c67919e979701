"""Runs: a recipe carried out in a folder, from the teachers to the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console
from torch import nn

from edufast.artifact import ModelInfo, load_model, read_info, save_model
from edufast.curriculum import Curriculum
from edufast.data import DataSet, load_dataset
from edufast.errors import UserError
from edufast.export.trained import export_trained, latency
from edufast.faculty import Faculty, Teacher
from edufast.files import atomic_write
from edufast.journal import Journal
from edufast.models import create_model
from edufast.recipe import Recipe, TeacherSection, parse_recipe
from edufast.report import write_report
from edufast.school import School
from edufast.student import Student

METHODS = ("scratch", "kd", "routed", "education")


@dataclass(frozen=True)
class RunConfig:
    """What a run folder is for; its config.yaml.

    Attributes:
        recipe: resolved, with every default filled in.
        methods: student trainings, in order, each with every seed.
        seeds: of the student's weights and of the order and views of the samples. Teachers use the
            recipe's seed.
        device: "cpu" or a CUDA device.
        export: write and verify student.onnx of the first education graduate.
        teachers: folder of a run whose teachers serve this one, too; None: its own.
    """

    recipe: Recipe
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    device: str = "cpu"
    export: bool = True
    teachers: Path | None = None

    def to_yaml(self) -> str:
        """As stored in config.yaml."""
        fields = {
            "methods": list(self.methods),
            "seeds": list(self.seeds),
            "device": self.device,
            "export": self.export,
            "teachers": None if self.teachers is None else str(self.teachers),
            "recipe": self.recipe.model_dump(mode="json"),
        }
        return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)

    @classmethod
    def read(cls, folder: Path) -> RunConfig:
        """The config of an existing run.

        Raises:
            UserError: the folder holds no run.
        """
        path = folder / "config.yaml"
        if not path.is_file():
            raise UserError(f"{folder} holds no run: {path} does not exist")
        fields = yaml.safe_load(path.read_text())
        recipe = parse_recipe(fields["recipe"], str(path))
        return cls(
            recipe,
            tuple(fields["methods"]),
            tuple(fields["seeds"]),
            fields["device"],
            fields["export"],
            None if fields["teachers"] is None else Path(fields["teachers"]),
        )


class Run:
    """Carries out a config in a folder, and goes on where an earlier attempt stopped.

    The folder gets config.yaml, metrics.jsonl, teachers/, checkpoints/, student.safetensors,
    student.onnx, report.html and plots/.

    Raises:
        UserError: the folder holds a run of another config, or the recipe does not fit its data.
    """

    def __init__(self, config: RunConfig, folder: Path, console: Console | None = None) -> None:
        self.config, self.recipe, self.folder = config, config.recipe, folder
        self.console = console or Console(stderr=True)
        self.data = load_dataset(self.recipe.data.source, image_size=self.recipe.data.image_size)
        self.curriculum = self.recipe.create_curriculum(self.data)
        if "kd" in config.methods:
            self.recipe = _with_full_teacher(self.recipe, self.data)
        self.slices = self.recipe.teacher_classes(self.data)
        try:
            self._rehearse()
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{self.recipe.name}: {error}") from error
        self._open_folder()
        self.journal = Journal(folder / "metrics.jsonl")

    def execute(self) -> dict[str, dict[int, float]]:
        """Teach, distil, export, report. Returns accuracy by method and seed.

        Raises:
            Interrupted: after Ctrl-C; call again with the same folder to go on.
            TrainingError, ExportError: a step failed; the message says why.
        """
        finished = self._finished()
        if not finished:
            self._describe()
        faculty = self.teach()
        try:
            for method in self.config.methods:
                for seed in self.config.seeds:
                    if (method, seed) not in finished:
                        finished[method, seed] = self._train(method, seed, faculty)
            if self.config.export and "education" in self.config.methods:
                self._export(*load_model(self.folder / "student.safetensors"), "student.onnx")
        finally:
            page = write_report(self.folder)
            self.console.print(f"report: {page}")
        return {
            method: {seed: finished[method, seed] for seed in self.config.seeds}
            for method in self.config.methods
        }

    def _rehearse(self) -> None:
        """Put everything together once with stand-ins for the teachers: what does not fit shows
        here, not after they have been trained."""
        for section, classes in zip(self.recipe.teachers, self.slices, strict=True):
            create_model(section.model, len(classes))
        faculty = Faculty([Teacher(nn.Identity(), classes) for classes in self.slices])
        for method in self.config.methods:
            self._school(method, self.config.seeds[0], faculty)

    # --- teachers ----------------------------------------------------------------------------

    def teach(self) -> Faculty:
        """Load the recipe's teachers, or train those that have no weights yet."""
        teachers = []
        for k, (section, classes) in enumerate(zip(self.recipe.teachers, self.slices, strict=True)):
            path = self._teacher_path(k)
            if not path.exists():
                self._train_teacher(k, section, classes, path)
            model, info = load_model(path)
            if info.class_ids != classes or info.data != self.data.name:
                raise UserError(
                    f"{path} knows classes {_brief(info.class_ids)} of {info.data}; expected "
                    f"{_brief(classes)} of {self.data.name}"
                )
            teachers.append(Teacher(model, classes, f"{info.model} ({k})"))
        return Faculty(teachers, self.config.device)

    def _train_teacher(
        self, k: int, section: TeacherSection, classes: Sequence[int], path: Path
    ) -> None:
        epochs = section.epochs or self.recipe.teacher_epochs
        torch.manual_seed(self.recipe.seed + k)
        school = School(
            Student(create_model(section.model, len(classes)), 1, input_size=self._input_size),
            Faculty([]),
            Curriculum.single(classes, epochs),
            self.data,
            training=self.recipe.create_teaching(),
            device=self.config.device,
            seed=self.recipe.seed,
            checkpoint=self._checkpoint(f"teacher{k}"),
            method=f"teacher {k}",
        )
        model, at = school.fit(), school.progress
        save_model(path, model, self._info(section.model, classes, at.accuracy, at.student_flops))
        self.journal.write(
            "teacher",
            teacher=k,
            model=section.model,
            classes=list(classes),
            accuracy=at.accuracy,
            seconds=at.seconds,
            flops=at.student_flops,
            samples=at.samples,
        )
        self.console.print(
            f"teacher {k}: {section.model}, {len(classes)} classes, {at.accuracy:.1%}, "
            f"{at.seconds:.0f} s"
        )

    # --- students ----------------------------------------------------------------------------

    def _school(
        self, method: str, seed: int, faculty: Faculty, journal: Journal | None = None
    ) -> School:
        curriculum = self._curriculum_of(method)
        torch.manual_seed(seed)
        student = Student(
            create_model(self.recipe.student.model, len(self.data.classes)),
            curriculum.fragments[-1],
            input_size=self._input_size,
            cuts=self.recipe.student.cuts if method == "education" else None,
            head=self.recipe.student.head,
            head_width=self.recipe.student.head_width,
            class_order=curriculum.class_order,
            seed=seed,
            keep_exits=self.recipe.training.exit_weight > 0,
        )
        return School(
            student,
            faculty,
            curriculum,
            self.data,
            algorithm=self.recipe.create_algorithm(),
            training=self.recipe.create_training(),
            device=self.config.device,
            seed=seed,
            journal=journal,
            checkpoint=self._checkpoint(f"{method}-{seed}"),
            method=method,
        )

    def _train(self, method: str, seed: int, faculty: Faculty) -> float:
        school = self._school(method, seed, faculty, self.journal)
        graduate, at, student = school.fit(), school.progress, school.student
        if method == "education" and seed == self.config.seeds[0]:
            everything = tuple(range(len(self.data.classes)))
            info = self._info(self.recipe.student.model, everything, at.accuracy, at.student_flops)
            save_model(self.folder / "student.safetensors", graduate, info)
            if self.config.export:
                for depth in student.depths[:-1]:
                    self._export(student.graduate(depth), info, f"student-exit{depth}.onnx")
        for phase, seconds in at.phases.items():
            self.journal.write("phase", method=method, seed=seed, phase=phase, seconds=seconds)
        self.journal.write(
            "result",
            method=method,
            seed=seed,
            accuracy=at.accuracy,
            samples=at.samples,
            student_flops=at.student_flops,
            teacher_flops=at.teacher_flops,
            teacher_training_flops=self._teacher_training_flops(school.curriculum),
            seconds=at.seconds,
        )
        self.console.print(
            f"{method}, seed {seed}: {at.accuracy:.1%} after {at.samples:,} samples, "
            f"{at.student_flops / 1e12:.2f} TFLOP, {at.seconds:.0f} s"
        )
        return at.accuracy

    def _curriculum_of(self, method: str) -> Curriculum:
        """Every method sees as many samples as education distillation."""
        if method == "education":
            return self.curriculum
        epochs = sum(grade.epochs for grade in self.curriculum.grades)
        samples = self._education_samples() // epochs
        classes = self.curriculum.class_order
        count = len(self.data.classes)
        full = [k for k, known in enumerate(self.slices) if len(known) == count]
        owners = [k for k, known in enumerate(self.slices) if len(known) < count]
        if method == "scratch":
            return Curriculum.single(classes, epochs, samples=samples)
        if method == "kd":
            return Curriculum.single(
                classes, epochs, teachers=full[-1:], target="full", samples=samples
            )
        return Curriculum.single(classes, epochs, teachers=owners, target="routed", samples=samples)

    def _education_samples(self) -> int:
        """Samples the graded student sees: whole batches of every epoch of every grade."""
        labels, batch = self.data.train.labels, self.recipe.training.batch_size
        total = 0
        for g, grade in enumerate(self.curriculum.grades):
            available = int(np.isin(labels, self.curriculum.classes_taught(g)).sum())
            samples = grade.samples or available
            total += grade.epochs * (samples // batch * batch or samples)
        return total

    def _teacher_training_flops(self, curriculum: Curriculum) -> int:
        teachers = {k for grade in curriculum.grades for k in grade.teachers}
        return sum(read_info(self._teacher_path(k)).training_flops for k in sorted(teachers))

    # --- export and bookkeeping --------------------------------------------------------------

    def _export(self, model: nn.Module, info: ModelInfo, name: str) -> None:
        report = export_trained(model, info, self.data, self.folder / name)
        event = report.event()
        milliseconds = latency(report.path, info.image_size)
        self.journal.write(event.pop("event"), **event, latency_ms=milliseconds)
        self.console.print(
            f"exported {report.path} ({report.bytes / 1e6:.2f} MB, {milliseconds:.2f} ms an image "
            f"on one thread), agreement with PyTorch {report.parity.agreement:.1%}"
        )

    def _open_folder(self) -> None:
        path, text = self.folder / "config.yaml", self.config.to_yaml()
        if path.exists():
            if path.read_text() != text:
                raise UserError(
                    f"{self.folder} holds a run of another recipe or with other options; choose "
                    f"another --out, or go on with it: edufast resume {self.folder}"
                )
            return
        with atomic_write(path) as temporary:
            temporary.write_text(text)

    def _describe(self) -> None:
        self.journal.write(
            "run",
            name=self.recipe.name,
            dataset=self.data.name,
            classes=list(self.data.classes),
            num_classes=len(self.data.classes),
            device=self.config.device,
            torch=torch.__version__,
            student=self.recipe.student.model,
            slices=[list(grade.classes) for grade in self.curriculum.grades if grade.classes],
            grades=[
                {
                    "grade": g + 1,
                    "fragments": self.curriculum.fragments[g],
                    "classes": len(self.curriculum.classes_taught(g)),
                    "epochs": grade.epochs,
                    "target": grade.target,
                }
                for g, grade in enumerate(self.curriculum.grades)
            ],
        )

    def _finished(self) -> dict[tuple[str, int], float]:
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines]
        return {(e["method"], e["seed"]): e["accuracy"] for e in events if e["event"] == "result"}

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.pt"

    def _teacher_path(self, k: int) -> Path:
        folder = (self.config.teachers or self.folder) / "teachers"
        return self.recipe.teachers[k].weights or folder / f"teacher{k}.safetensors"

    @property
    def _input_size(self) -> tuple[int, int, int]:
        return (3, self.data.image_size, self.data.image_size)

    def _info(self, model: str, classes: Sequence[int], accuracy: float, flops: int) -> ModelInfo:
        return ModelInfo(
            model=model,
            classes=tuple(self.data.classes[c] for c in classes),
            class_ids=tuple(classes),
            data=self.data.name,
            image_size=self.data.image_size,
            mean=self.data.mean,
            std=self.data.std,
            accuracy=accuracy,
            training_flops=flops,
        )


def _with_full_teacher(recipe: Recipe, data: DataSet) -> Recipe:
    """Plain KD needs a teacher of all classes: add one, last, where the recipe has none."""
    if any(len(classes) == len(data.classes) for classes in recipe.teacher_classes(data)):
        return recipe
    extra = TeacherSection(model=recipe.teachers[-1].model)
    return recipe.model_copy(update={"teachers": [*recipe.teachers, extra]})


def _brief(classes: Sequence[int]) -> str:
    return f"{classes[0]}..{classes[-1]} ({len(classes)})"
