"""The trainings of a sweep: teachers, shared by all variants that need the same, and students."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from edufast.data import DataSet
from edufast.experiments.content_names import text_hash
from edufast.experiments.events import Equal, ResultEvent
from edufast.experiments.method import dry_run, plan_methods
from edufast.experiments.recipe import DataSection, MethodName, Recipe
from edufast.experiments.run import teach, train
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.experiments.run_setup import Setup
from edufast.experiments.sweep_config import SweepConfig
from edufast.experiments.teacher_training import train_teacher
from edufast.experiments.workers import DONE_ELSEWHERE, Task
from edufast.teachers.logit_store import countable_views
from edufast.utils.errors import TrainingError, UserError
from edufast.utils.event_log import EventLog
from edufast.utils.files import atomic_write
from edufast.utils.lock import InUse, is_locked, lock


@functools.lru_cache(maxsize=2)
def _load(section: DataSection) -> DataSet:
    """The tasks of a seed share their data; each process loads them once."""
    return section.load()


@dataclass(frozen=True)
class TeacherTask:
    """One teacher of one or more variants.

    Attributes:
        recipe: that of any of them.
        k: position of the teacher.
        folder: that of the sweep's teachers.
    """

    recipe: Recipe
    k: int
    folder: Path
    device: str
    needs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        model, seed = self.recipe.teachers[self.k].model, self.recipe.seed
        return f"teacher {self.k} ({model}), seed {seed}, data {self.recipe.data.seed}"

    @property
    def product(self) -> Path:
        """Its weights, named by all that determines them."""
        section = self.recipe.teachers[self.k]
        determined_by = {
            "data": self.recipe.data.model_dump(mode="json"),
            "teacher": section.model_dump(mode="json", exclude={"epochs", "shard"}),
            "position": self.k,
            "epochs": section.epochs or self.recipe.teacher_epochs,
            "samples": self.recipe.teacher_samples,
            "image_sizes": self.recipe.teacher_image_sizes,
            "training": (self.recipe.teaching or self.recipe.training).model_dump(mode="json"),
            "seed": self.recipe.seed,
        }
        digest = text_hash(json.dumps(determined_by, sort_keys=True))
        return self.folder / f"teacher{self.k}-{digest}.safetensors"

    @property
    def metrics(self) -> Path:
        """Its event log."""
        return self.product.with_suffix(".jsonl")

    def done(self) -> bool:
        return self.product.exists()

    def run(self, console: Console) -> str:
        with lock(self.product.with_suffix(".lock"), self.product) as check:
            if self.done():
                return DONE_ELSEWHERE
            event = train_teacher(
                self.recipe,
                self.k,
                _load(self.recipe.data),
                self.product,
                device=self.device,
                checkpoint=self.product.with_suffix(".pt"),
                event_log=EventLog(self.metrics, check=check),
                console=console,
            )
        return f"{event.accuracy:.1%}, {event.seconds:.0f} s"


@dataclass(frozen=True)
class StudentTask:
    """One variant with one seed: a run in a folder of its own.

    Attributes:
        recipe: of the variant, with the files of its teachers' weights.
        teachers: those files that other tasks make.
        reference: folder of the run whose training time this one gets, if any.
        cache: folder of its teachers' logits, if they are kept.
    """

    variant: str
    method: MethodName
    seed: int
    recipe: Recipe
    product: Path
    equal: Equal
    device: str
    teachers: tuple[Path, ...]
    reference: Path | None = None
    cache: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    @property
    def needs(self) -> tuple[Path, ...]:
        return self.teachers if self.reference is None else (*self.teachers, self.reference)

    def config(self) -> RunConfig:
        """Of its run; before its reference has a result, without the seconds."""
        reference = None if self.reference is None else _result(self.reference)
        return RunConfig(
            methods=(self.method,),
            seeds=(self.seed,),
            equal=self.equal,
            seconds=None if reference is None else reference.training_seconds,
            device=self.device,
            export=False,
            recipe=self.recipe,
            cache=self.cache,
        )

    def done(self) -> bool:
        return _result(self.product) is not None or RunFolder(self.product).diverged.exists()

    def run(self, console: Console) -> str:
        if is_locked(self.product):  # before its data and teachers are read, perhaps often
            raise InUse(f"{self.product} is in use by another process")
        if self.done():
            return DONE_ELSEWHERE
        setup = Setup(self.config(), self.product, console, _load)
        try:
            with setup.opened():
                result = train(setup, teach(setup))[self.method][self.seed]
        except TrainingError as error:  # an outcome of the variant, no failure of the sweep
            with atomic_write(setup.folder.diverged) as temporary:
                temporary.write_text(f"{error}\n", "utf-8")
            return f"diverged: {error}"
        return f"{result.accuracy:.1%}, {result.seconds:.0f} s"


def _result(folder: Path) -> ResultEvent | None:
    return next(iter(RunFolder(folder).log().results.values()), None)


@dataclass(frozen=True)
class SweepTasks:
    """All trainings of a sweep, finished or not.

    Attributes:
        teachers: by product.
        students: seed by seed.
    """

    teachers: dict[Path, TeacherTask]
    students: list[StudentTask]

    def in_order(self) -> list[Task]:
        """Seed by seed, each student after the teachers and the run that it needs."""
        ordered: dict[Path, Task] = {}
        students = sorted(self.students, key=lambda task: (task.seed, task.reference is not None))
        for student in students:
            for path in student.teachers:
                ordered.setdefault(path, self.teachers[path])
            ordered[student.product] = student
        return list(ordered.values())


def plan_tasks(config: SweepConfig, folder: Path) -> SweepTasks:
    """What a sweep in ``folder`` trains.

    Raises:
        UserError: a variant does not fit its data, two have one folder, or equal time has none to
            relate to.
    """
    variants = [_planned(config, name) for name in config.trained]
    names = config.recipe.variants
    if len({_slug(name) for name in names}) < len(names):
        raise UserError("variants: two names make the same folder name")
    teachers: dict[Path, TeacherTask] = {}
    students = []
    for seed in range(config.seeds):
        for variant in variants:
            recipe = _seeded(variant.recipe, seed, config)
            tasks = [
                TeacherTask(recipe, k, folder / "teachers", config.device)
                for k in variant.teachers
                if recipe.teachers[k].finished is None
            ]
            for task in tasks:
                teachers.setdefault(task.product, task)
            students.append(
                StudentTask(
                    variant=variant.name,
                    method=variant.method,
                    seed=seed,
                    recipe=_with_weights(recipe, tasks),
                    product=_run_folder(folder, variant.name, seed),
                    equal=config.equal,
                    device=config.device,
                    teachers=tuple(task.product for task in tasks),
                    cache=_cache(recipe, folder) if config.cache and variant.caches else None,
                )
            )
    if config.equal == "time":
        students = [_timed(task, students) for task in students]
    return SweepTasks(teachers, students)


@dataclass(frozen=True)
class _Variant:
    name: str
    method: MethodName
    recipe: Recipe
    teachers: Sequence[int]  # positions of those that it learns from
    samples: int  # for training

    @property
    def caches(self) -> bool:
        """Whether stored logits are all that it asks its teachers for.

        Raises:
            UserError: they would be of too many views.
        """
        training = self.recipe.create_training()
        if not self.teachers or training.unstored or self.recipe.create_algorithm().reads_features:
            return False
        countable_views(training.augment, self.samples)
        return True


def _planned(config: SweepConfig, name: str) -> _Variant:
    """A variant, checked on its data."""
    changes: dict[str, Any] = config.recipe.variants[name]
    method: MethodName = changes.get("method", "education")
    recipe = config.recipe.variant(changes, f"variant {name}")
    recipe.check_files(f"variant {name}")
    data = _load(recipe.data)
    methods = plan_methods(recipe, data, [method])
    dry_run(methods, [method], config.device)
    education, teachers = methods["education"].recipe, methods[method].teachers
    return _Variant(name, method, education, teachers, len(data.train))


def _seeded(recipe: Recipe, seed: int, config: SweepConfig) -> Recipe:
    """With the set of teachers and the draw of the data that a student seed gets."""
    data = {"seed": recipe.data.seed + seed % config.data_seeds}
    return recipe.model_copy(
        update={
            "seed": recipe.seed + seed % config.teacher_seeds,
            "data": recipe.data.model_copy(update=data),
        }
    )


def _cache(recipe: Recipe, folder: Path) -> Path:
    """Folder of the logits of its teachers, named by all that determines them: also by the weights
    that the student starts from, whose normalisation its images have."""
    teachers = [
        str(teacher.finished or TeacherTask(recipe, k, folder, "cpu").product.name)
        for k, teacher in enumerate(recipe.teachers)
    ]
    views = recipe.training.model_dump(mode="json", include={"augment", "precision"})
    determined_by = [teachers, recipe.data.model_dump(mode="json"), views]
    if recipe.student.weights is not None:
        determined_by.append(recipe.student.model_dump(mode="json", include={"model", "weights"}))
    return (folder / "caches" / text_hash(json.dumps(determined_by))).absolute()


def _with_weights(recipe: Recipe, tasks: Sequence[TeacherTask]) -> Recipe:
    teachers = list(recipe.teachers)
    for task in tasks:
        finished = {"weights": task.product.absolute(), "epochs": None}
        teachers[task.k] = teachers[task.k].model_copy(update=finished)
    return recipe.model_copy(update={"teachers": teachers})


def _timed(task: StudentTask, students: Sequence[StudentTask]) -> StudentTask:
    """The task with the run whose time it gets: of the same recipe if there is one."""
    if task.method == "education":
        return task
    candidates = [t for t in students if (t.method, t.seed) == ("education", task.seed)]
    if not candidates:
        raise UserError("--equal time: expected a variant with the method education")
    same = [t for t in candidates if t.recipe == task.recipe]
    return replace(task, reference=(same or candidates)[0].product)


def sweep_runs(config: SweepConfig, folder: Path) -> dict[str, dict[int, Path]]:
    """Run folders of a sweep by variant and seed: those that ``config`` trains, begun or not, and
    those that are there from earlier sweeps."""
    runs = {}
    for name in config.recipe.variants:
        start = f"{_slug(name)}-"
        there = (path.name.removeprefix(start) for path in (folder / "runs").glob(f"{start}*"))
        seeds = {int(seed) for seed in there if re.fullmatch("0|[1-9][0-9]*", seed, re.ASCII)}
        if name in config.trained:
            seeds |= set(range(config.seeds))
        if seeds:
            runs[name] = {seed: _run_folder(folder, name, seed) for seed in sorted(seeds)}
    return runs


def _run_folder(folder: Path, variant: str, seed: int) -> Path:
    return folder / "runs" / f"{_slug(variant)}-{seed}"


def _slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^\w.=+-]+", "_", name)
