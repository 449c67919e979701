"""Everything a run works with, assembled and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from rich.console import Console

from edufast.data import DataSet
from edufast.experiments import RUN_FILE
from edufast.experiments.device_budget import fitting_files, fitting_text
from edufast.experiments.events import FileKey, PlannedGrade, RunEvent
from edufast.experiments.method import dry_run, plan_methods
from edufast.experiments.recipe import DataSection
from edufast.experiments.run_folder import RunConfig, RunFolder
from edufast.experiments.runs import run_state
from edufast.experiments.trackers.registry import check_trackers, tracking
from edufast.teachers.logit_store import countable_views
from edufast.utils.errors import UserError
from edufast.utils.event_log import EventLog
from edufast.utils.files import remove_partial_files
from edufast.utils.lock import folder_lock
from edufast.utils.progress import message_console
from edufast.utils.ranks import from_first


class Setup:
    """What a run works with. Whatever can be checked before a training is checked here; the folder
    is written to within :meth:`opened` only.

    Args:
        config: what to do.
        path: the folder.
        console: told what happens; None: standard error.
        load: reads the data.
        trackers: names of those that hear of every event, see
            :mod:`edufast.experiments.trackers.registry`.

    Attributes:
        methods: those of the config by name, and education.
        recipe: the config's, with a teacher of all classes where a method needs one.
        event_log: of the folder.

    Raises:
        UserError: the folder holds a run of another config, the recipe does not fit its data, or
            there is no tracker of a name.
    """

    def __init__(
        self,
        config: RunConfig,
        path: Path,
        console: Console | None = None,
        load: Callable[[DataSection], DataSet] = DataSection.load,
        trackers: Sequence[str] = (),
    ) -> None:
        check_trackers(trackers)
        self._trackers = trackers
        self.config, self.folder = config, RunFolder(path)
        _check_folders(config)
        self.console = console or message_console()
        if config.equal == "time" and config.seconds is None and "education" not in config.methods:
            raise UserError("equal time: expected education among the methods, which sets the time")
        config.recipe.check_files()
        self.data = load(config.recipe.data)
        self.methods = plan_methods(config.recipe, self.data, config.methods)
        self.recipe = self.methods["education"].recipe
        for k, teacher in enumerate(self.recipe.teachers):
            if teacher.finished is None:
                self.recipe.teacher_curriculum(k, self.data)
        cached = config.cache is not None
        dry_run(self.methods, config.methods, config.device, cached=cached)
        self._check_teachers()
        if cached:
            countable_views(self.recipe.create_training().augment, len(self.data.train))
        self._fitting = from_first(self._check_begin)
        if self._fitting is not None:
            self.console.print(fitting_text(self._fitting))
        self.event_log = EventLog()

    def _check_begin(self) -> list[FileKey] | None:
        """The files that fit the recipe's budget. A run that has begun goes on: latency, measured
        again, may differ."""
        if self.folder.holds(self.config) and (begun := self.folder.log().run) is not None:
            names = dict(enumerate(begun.classes))
            self.data.check_names(names, f"the run in {self.folder.path}")
            return None
        return fitting_files(self.methods["education"])

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within the block the folder is one of this config, and no other process is in it; those
        of the same training leave it to the first of them.

        Raises:
            UserError: another process is, the folder holds a run of another config by now, or a
            tracker cannot begin.
        """
        with ExitStack() as stack:
            from_first(stack.enter_context, self._held())
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        with folder_lock(self.folder.path) as check:
            remove_partial_files(self.folder.path)
            self.folder.claim(self.config)
            # What is impossible here must not be found so after hours of teaching.
            if self.config.cache is not None:
                self.config.cache.mkdir(parents=True, exist_ok=True)
            if self.config.teachers is not None:
                for k in self.asked:
                    if not self.teacher_file(k).exists():
                        self.teacher_file(k).parent.mkdir(parents=True, exist_ok=True)
            content = self.config.model_dump(mode="json")
            say = self.console.print
            with tracking(self._trackers, self.folder.path, content, say) as listeners:
                self.event_log = EventLog(self.folder.metrics, listeners, check)
                if self.folder.log().run is None:
                    self.event_log.write(self._description())
                yield

    @property
    def asked(self) -> set[int]:
        """Positions of the teachers that the config's methods learn from; without methods, all."""
        if not self.config.methods:
            return set(range(len(self.recipe.teachers)))
        return {k for name in self.config.methods for k in self.methods[name].teachers}

    def _check_teachers(self) -> None:
        """Another run's must be trained, or it would go on with those of this recipe as its own."""
        if self.config.teachers is None or not (self.config.teachers / RUN_FILE).is_file():
            return
        missing = [k for k in sorted(self.asked) if not self.teacher_file(k).exists()]
        if missing and run_state(self.config.teachers).state != "finished":
            raise UserError(
                f"teachers: the run in {self.config.teachers} is not finished and has not trained "
                f"teacher {missing[0]}; continue it first: edufast resume {self.config.teachers}"
            )

    def teacher_file(self, k: int) -> Path:
        """Weights of the teacher at position ``k``, which may not exist yet."""
        folder = RunFolder(self.config.teachers) if self.config.teachers else self.folder
        return self.recipe.teachers[k].finished or folder.teacher(k)

    def _description(self) -> RunEvent:
        education = self.methods["education"].curriculum
        return RunEvent(
            name=self.recipe.name,
            dataset=self.data.name,
            classes=list(self.data.classes),
            num_classes=len(self.data.classes),
            device=self.config.device,
            torch=torch.__version__,
            student=self.recipe.student.model,
            split="holdout" if self.recipe.data.holdout else "validation",
            equal=self.config.equal,
            config=self.config.model_dump(mode="json"),
            fitting=self._fitting,
            slices=[list(grade.classes) for grade in education.grades if grade.classes],
            grades=[
                PlannedGrade(
                    grade=g + 1,
                    fragments=education.fragments[g],
                    classes=len(education.taught(g)),
                    image_size=grade.image_size or self.data.image_size,
                    epochs=grade.epochs,
                    target=str(grade.target),
                )
                for g, grade in enumerate(education.grades)
            ],
        )


def _check_folders(config: RunConfig) -> None:
    """Of teachers and of their logits: where they are wrong, they would be found so after hours."""
    for name, folder in (("teachers", config.teachers), ("cache", config.cache)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise UserError(
                f"{name}: {folder} is not a folder; expected one, or a name for a new one"
            )
    teachers = config.teachers
    if teachers is not None and any(teachers.glob("teacher*.safetensors")):
        raise UserError(
            f"teachers: {teachers} is a folder within a run; expected the run, {teachers.parent}"
        )
