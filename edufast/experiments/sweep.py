"""Sweeps: variants of a recipe with several seeds each, on shared teachers, in one summary."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import PositiveInt
from rich.console import Console

from edufast.data import DataSet
from edufast.experiments.events import DIVERGED, Equal, ResultEvent, read_run
from edufast.experiments.method import METHODS, Methods
from edufast.experiments.recipe import DataSection, Method, Recipe, parse_recipe
from edufast.experiments.report import write_sweep
from edufast.experiments.run import Run, RunConfig
from edufast.experiments.schema import Section, parse_value, read_section
from edufast.experiments.teachers import train_teacher
from edufast.experiments.workers import Task, run_tasks
from edufast.utils.errors import TrainingError, UserError
from edufast.utils.event_log import EventLog
from edufast.utils.files import atomic_write

CONFIG = "sweep.yaml"


class SweepConfig(Section):
    """What a sweep folder is for; its sweep.yaml.

    Attributes:
        seeds: of students: 0 to this many, exclusive.
        teacher_seeds: sets of teachers; student seed s learns from set s modulo this.
        data_seeds: draws of the data (splits, rendering), likewise.
        equal: see :class:`edufast.experiments.run.RunConfig`; of each variant relative to education
            distillation by the same variant, for "time" to the first variant that is one.
        device: "cpu" or a CUDA device.
        recipe: with its variants.
    """

    seeds: PositiveInt
    teacher_seeds: PositiveInt = 1
    data_seeds: PositiveInt = 1
    equal: Equal = "samples"
    device: str = "cpu"
    recipe: Recipe

    @classmethod
    def read(cls, folder: Path) -> SweepConfig:
        """The config of an existing sweep.

        Raises:
            UserError: sweep.yaml was damaged.
        """
        config = read_section(cls, folder / CONFIG)
        parse_recipe(config.recipe.model_dump(mode="json"), f"{folder / CONFIG}: recipe")
        return config


def with_variants(recipe: Recipe, vary: Sequence[str] = (), only: Sequence[str] = ()) -> Recipe:
    """``recipe`` with the variants that a sweep runs.

    Args:
        recipe: its own variants, else what ``vary`` makes of the recipe, else every method.
        vary: ``key=value,value`` each; every variant is run with every combination of them. The key
            ``method`` chooses among :data:`edufast.experiments.method.METHODS`.
        only: names of the variants wanted; none: all.

    Raises:
        UserError: a variant is not valid, or there is none of a name.
    """
    variants: dict[str, dict[str, Any]] = recipe.variants
    if not variants and not vary:
        variants = {name: {"method": name} for name in METHODS}
    axes = [_axis(text) for text in vary]
    if axes:
        variants = {
            ", ".join(filter(None, (name, *(text for text, _ in values)))): changes
            | dict(change for _, change in values)
            for name, changes in (variants or {"": {}}).items()
            for values in itertools.product(*axes)
        }
    for name in only:
        if name not in variants:
            raise UserError(f"--only: {name!r}; expected some of {', '.join(variants)}")
    chosen = {name: changes for name, changes in variants.items() if not only or name in only}
    for name, changes in chosen.items():
        recipe.variant(changes, f"variant {name}")
    return recipe.model_copy(update={"variants": chosen})


def _axis(text: str) -> list[tuple[str, tuple[str, Any]]]:
    """``key=a,b`` as (name, (key, value)) of each value."""
    key, separator, values = text.partition("=")
    found = parse_value(f"[{values}]", f"--vary {text}")
    if not separator or not found:
        raise UserError(f"--vary {text}: expected key.subkey=value,value")
    return [(f"{key}={json.dumps(value).strip(chr(34))}", (key, value)) for value in found]


@functools.lru_cache(maxsize=2)
def _load(section: DataSection) -> DataSet:
    """The tasks of a seed share their data; each process loads them once."""
    return section.load()


@dataclass(frozen=True)
class TeacherTask:
    """One teacher of one or more variants."""

    recipe: Recipe
    k: int
    product: Path
    device: str
    needs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        model, seed = self.recipe.teachers[self.k].model, self.recipe.seed
        return f"teacher {self.k} ({model}), seed {seed}, data {self.recipe.data.seed}"

    @property
    def event_log(self) -> Path:
        return self.product.with_suffix(".jsonl")

    def done(self) -> bool:
        return self.product.exists()

    def run(self, console: Console) -> str:
        event = train_teacher(
            self.recipe,
            self.k,
            _load(self.recipe.data),
            self.product,
            device=self.device,
            checkpoint=self.product.with_suffix(".pt"),
            event_log=EventLog(self.event_log),
            console=console,
        )
        return f"{event.accuracy:.1%}, {event.seconds:.0f} s"


@dataclass(frozen=True)
class StudentTask:
    """One variant with one seed: a run in a folder of its own.

    Attributes:
        reference: folder of the run whose training time this one gets, if any.
    """

    variant: str
    method: Method
    seed: int
    recipe: Recipe
    product: Path
    equal: Equal
    device: str
    needs: tuple[Path, ...]
    reference: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}, seed {self.seed}"

    def result(self) -> ResultEvent | None:
        """Its ``result`` event, once there is one."""
        return _result(self.product)

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
        )

    def done(self) -> bool:
        return self.result() is not None or (self.product / DIVERGED).exists()

    def run(self, console: Console) -> str:
        config = self.config()
        try:
            results = Run(config, self.product, console, _load(self.recipe.data)).train()
        except TrainingError as error:  # an outcome of the variant, no failure of the sweep
            with atomic_write(self.product / DIVERGED) as temporary:
                temporary.write_text(f"{error}\n")
            return f"diverged: {error}"
        result = results[self.method][self.seed]
        return f"{result.accuracy:.1%}, {result.seconds:.0f} s"


def _result(folder: Path) -> ResultEvent | None:
    if not (folder / "metrics.jsonl").exists():
        return None
    return next(iter(read_run(folder).results.values()), None)


class Sweep:
    """Carries out a sweep in a folder, and goes on where an earlier attempt stopped.

    The folder gets sweep.yaml, teachers/, runs/<variant>-<seed>/, and the summary: sweep.json,
    sweep.md, plots/sweep.png and .svg, metrics.jsonl of all runs together and report.html. The same
    folder takes further variants and seeds; what is finished stays.

    Raises:
        UserError: a variant does not fit the data.
    """

    def __init__(self, config: SweepConfig, folder: Path, console: Console | None = None) -> None:
        self.config, self.folder = config, folder
        self.console = console or Console(stderr=True)
        self.teachers: dict[Path, TeacherTask] = {}
        self.students: list[StudentTask] = []
        variants = {
            name: self._prepared(name, changes) for name, changes in config.recipe.variants.items()
        }
        if len({_slug(name) for name in variants}) < len(variants):
            raise UserError("variants: two names make the same folder name")
        for seed in range(config.seeds):
            for name, (method, recipe, needed) in variants.items():
                self.students.append(self._student(name, method, recipe, needed, seed))
        if config.equal == "time":
            self.students = [self._timed(task) for task in self.students]

    def execute(self, jobs: int = 1) -> dict[str, Any]:
        """Run what is not finished; returns the summary as in sweep.json.

        Raises:
            Interrupted: after Ctrl-C; call again to go on.
            UserError, TrainingError: a teacher's training failed; the message names it. That of
                a student which diverges ends there and is counted in the summary.
        """
        for task in self.students:
            if task.product.exists():
                task.config().check_folder(task.product)
        with atomic_write(self.folder / CONFIG) as temporary:
            content = self.config.model_dump(mode="json")
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        try:
            run_tasks(self._ordered(), jobs, self.folder / "logs", self.console)
        finally:
            summary = self._write_summary()
        return summary

    def _write_summary(self) -> dict[str, Any]:
        runs: dict[str, dict[int, Path]] = {name: {} for name in self.config.recipe.variants}
        for task in self.students:
            runs[task.variant][task.seed] = task.product
        event_logs = [task.event_log for task in self.teachers.values()]
        return write_sweep(self.folder, self.config.model_dump(mode="json"), runs, event_logs)

    # --- what there is to do -----------------------------------------------------------------

    def _prepared(self, name: str, changes: dict[str, Any]) -> tuple[Method, Recipe, set[int]]:
        """Method, recipe and positions of the teachers of a variant; checked on its data."""
        method: Method = changes.get("method", "education")
        recipe = self.config.recipe.variant(changes, f"variant {name}")
        methods = Methods(recipe, _load(recipe.data), (method,))
        methods.rehearse((method,), self.config.device)
        return method, methods.recipe, methods.teachers((method,))

    def _student(
        self, variant: str, method: Method, recipe: Recipe, needed: set[int], seed: int
    ) -> StudentTask:
        data_seed = recipe.data.seed + seed % self.config.data_seeds
        recipe = recipe.model_copy(
            update={
                "seed": recipe.seed + seed % self.config.teacher_seeds,
                "data": recipe.data.model_copy(update={"seed": data_seed}),
            }
        )
        teachers, needs = list(recipe.teachers), []
        for k in needed:
            if teachers[k].weights is None:
                path = self.folder / "teachers" / f"{_teacher_key(recipe, k)}.safetensors"
                self.teachers.setdefault(path, TeacherTask(recipe, k, path, self.config.device))
                teachers[k] = teachers[k].model_copy(update={"weights": path.absolute()})
                needs.append(path)
        return StudentTask(
            variant=variant,
            method=method,
            seed=seed,
            recipe=recipe.model_copy(update={"teachers": teachers}),
            product=self.folder / "runs" / f"{_slug(variant)}-{seed}",
            equal=self.config.equal,
            device=self.config.device,
            needs=tuple(needs),
        )

    def _timed(self, task: StudentTask) -> StudentTask:
        """The task with the run whose time it gets: of the same recipe if there is one."""
        if task.method == "education":
            return task
        candidates = [t for t in self.students if (t.method, t.seed) == ("education", task.seed)]
        if not candidates:
            raise UserError("--equal time: expected a variant with the method education")
        same = [t for t in candidates if t.recipe == task.recipe]
        reference = (same or candidates)[0].product
        return replace(task, reference=reference, needs=(*task.needs, reference))

    def _ordered(self) -> list[Task]:
        """Seed by seed, each student behind the teachers and the run that it needs."""
        ordered: dict[Path, Task] = {}
        students = sorted(self.students, key=lambda task: (task.seed, task.reference is not None))
        for student in students:
            for path in student.needs:
                if path in self.teachers:
                    ordered.setdefault(path, self.teachers[path])
            ordered[student.product] = student
        return list(ordered.values())


def _teacher_key(recipe: Recipe, k: int) -> str:
    """Names a teacher by all that determines it."""
    section = recipe.teachers[k]
    determined_by = {
        "data": recipe.data.model_dump(mode="json"),
        "teacher": section.model_dump(mode="json", exclude={"weights", "epochs"}),
        "position": k,
        "epochs": section.epochs or recipe.teacher_epochs,
        "training": (recipe.teaching or recipe.training).model_dump(mode="json"),
        "seed": recipe.seed,
    }
    digest = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()
    return f"teacher{k}-{digest[:12]}"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "_", name)
