"""The folder of a run: what it is for, and where everything in it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveFloat

from edufast.experiments import RUN_FILE, SWEEP_FILE
from edufast.experiments.content_names import without_folder
from edufast.experiments.decide import Decision
from edufast.experiments.events import Equal
from edufast.experiments.recipe import MethodName, Recipe, parse_recipe
from edufast.experiments.run_log import RunLog, read_run
from edufast.experiments.schema import Section, check, differences, read_section, written_yaml
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write


class RunConfig(Section):
    """What a run folder is for; its config.yaml.

    Attributes:
        methods: student trainings, in order, each with every seed.
        seeds: of the student's weights and of the order and views of the samples. Teachers use the
            recipe's seed.
        equal: in what the budget of every method equals that of education distillation.
        seconds: of training that equal "time" means; None: what education distillation takes, which
            is one of the methods.
        device: "cpu" or a CUDA device.
        export: write and verify student.onnx of the first education graduate.
        teachers: folder of the run whose teachers are used; None: this one's.
        cache: folder of stored teachers' logits, which students read and add to, and which a run
            without methods fills; None: the teachers answer every time.
        recipe: resolved, with every default filled in.
        decisions: that were made because the recipe had left them open.
    """

    methods: tuple[MethodName, ...]
    seeds: tuple[int, ...]
    equal: Equal = "samples"
    seconds: PositiveFloat | None = None
    device: str = "cpu"
    export: bool = True
    teachers: Path | None = None
    cache: Path | None = None
    recipe: Recipe
    decisions: tuple[Decision, ...] = ()

    @property
    def exports_student(self) -> bool:
        """Whether the run is to write files of its student."""
        return self.export and "education" in self.methods

    def anywhere(self) -> RunConfig:
        """To be compared: without the folder of a sweep, which may have been moved since."""
        teachers = [
            teacher.model_copy(update={"weights": without_folder(teacher.finished)})
            if teacher.finished
            else teacher
            for teacher in self.recipe.teachers
        ]
        recipe = self.recipe.model_copy(update={"teachers": teachers})
        cache = self.cache and without_folder(self.cache)
        return self.model_copy(update={"recipe": recipe, "cache": cache})


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it makes. Besides what is listed here: student.onnx and, of a student
    with exits, student-exit1.onnx and so on; predict.py, which predicts pictures with them;
    report.html and plots/."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The resolved :class:`RunConfig`."""
        return self.path / RUN_FILE

    @property
    def metrics(self) -> Path:
        """The event log."""
        return self.path / "metrics.jsonl"

    @property
    def student(self) -> Path:
        """Weights of the first education graduate."""
        return self.path / "student.safetensors"

    @property
    def exits(self) -> Path:
        """Weights of its exits, if it has any."""
        return self.path / "exits.safetensors"

    @property
    def best(self) -> Path:
        """Weights of the most accurate model of all classes so far, while the run is unfinished."""
        return self.path / "best.safetensors"

    @property
    def answers(self) -> Path:
        """What the exported files say of the images set aside, one by one."""
        return self.path / "answers.npz"

    @property
    def diverged(self) -> Path:
        """Of a run of a sweep whose loss was not finite: at which step."""
        return self.path / "diverged.txt"

    def teacher(self, k: int) -> Path:
        """Weights of the teacher at position ``k``."""
        return self.path / "teachers" / f"teacher{k}.safetensors"

    def checkpoint(self, training: str) -> Path:
        """What keeps a training resumable."""
        return self.path / "checkpoints" / f"{training}.pt"

    def log(self) -> RunLog:
        """What happened so far.

        Raises:
            UserError: a line of the event log is malformed.
        """
        return read_run(self.metrics) if self.metrics.exists() else RunLog()

    def read_config(self) -> RunConfig:
        """The config of an existing run.

        Raises:
            UserError: the folder holds no run, or its config.yaml was damaged.
        """
        if not self.config_file.is_file():
            raise UserError(f"{self.path} holds no run: {self.config_file} does not exist")
        config = read_section(RunConfig, self.config_file)
        parse_recipe(config.recipe.model_dump(mode="json"), f"{self.config_file}: recipe")
        return config

    def holds(self, config: RunConfig) -> bool:
        """Whether there is a run of ``config`` already. One of another config that left nothing to
        go on from, because a picture could not be decoded, say, is none.

        Raises:
            UserError: there is another one, or its config.yaml was damaged, or changed since the
                run began; the message says which keys. Or there is a sweep.
        """
        if (self.path / SWEEP_FILE).exists():
            raise UserError(f"{self.path} holds a sweep, not a run; expected another folder")
        if not self.config_file.exists():
            return False
        config = config.anywhere()
        written = read_section(RunConfig, self.config_file).anywhere()
        if written != config and not self._kept_anything():
            return False  # it ended before there was anything to continue from
        if written != config:
            raise UserError(
                f"{self.path} holds a run of another recipe or with other options: "
                f"{differences(written, config)}; choose another --out, or continue it with: "
                f"edufast resume {self.path}"
            )
        about = self.log().run
        if about is not None and about.config is not None:
            begun = check(RunConfig, about.config, str(self.metrics)).anywhere()
            if begun != config:
                raise UserError(
                    f"{self.config_file} was changed since the run began: "
                    f"{differences(begun, config)}; change it back, or begin a run in another "
                    "folder"
                )
        return True

    def _kept_anything(self) -> bool:
        """Whether a run left weights, a checkpoint or a result."""
        folders = (self.path / "teachers", self.path / "checkpoints")
        if any(folder.is_dir() and any(folder.iterdir()) for folder in folders):
            return True
        files = (self.student, self.best, self.diverged)
        return any(file.exists() for file in files) or bool(self.log().results)

    def claim(self, config: RunConfig) -> None:
        """Make the folder one for ``config``, unless it is already.

        Raises:
            UserError: as :meth:`holds`.
        """
        if not self.holds(config):
            if self.config_file.exists():
                self.metrics.unlink(missing_ok=True)
            with atomic_write(self.config_file) as temporary:
                temporary.write_text(written_yaml(config), "utf-8")
