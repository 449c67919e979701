"""Recipes: a run described in YAML, checked before anything starts."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from edufast.data import DataSet, absolute_source, load_dataset
from edufast.experiments.curriculum_section import CurriculumSection
from edufast.experiments.fields import (
    SHARE,
    Bytes,
    ClassIds,
    Epochs,
    ImageSize,
    Milliseconds,
    SampleCount,
    Seed,
    check_class_ids,
)
from edufast.experiments.schema import (
    Section,
    check,
    override,
    parse_value,
    quoted,
    read_text,
    read_yaml,
)
from edufast.experiments.training_section import TrainingSection
from edufast.utils.choices import HeadKind, OnError, Weights
from edufast.utils.errors import UserError, unknown

# What carries a recipe out is imported by its methods: checking one takes no torch.
if TYPE_CHECKING:
    from torch import nn

    from edufast.distill import Algorithm
    from edufast.models.pretrained import Start
    from edufast.training.curriculum import Curriculum
    from edufast.training.settings import Training

_MOST_TEACHERS = 1024  # far above what any run needs

# The slice teachers' target, one grade.
TargetName = Literal["routed", "gated", "joint", "centred", "energy"]
MethodName = Literal["scratch", "kd", "sizes", TargetName, "alone", "grades", "education"]
VariantName = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]  # one line


class DataSection(Section):
    """Which images to learn from: see :func:`edufast.data.load_dataset`."""

    source: str
    image_size: ImageSize | None = None
    reduce_to: ImageSize | None = None
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0
    on_error: OnError = "stop"
    leave_out: Path | None = None

    def load(self) -> DataSet:
        """The images.

        Raises:
            UserError: as :func:`edufast.data.load_dataset`.
        """
        return load_dataset(
            self.source,
            image_size=self.image_size,
            holdout=self.holdout,
            seed=self.seed,
            on_error=self.on_error,
            reduce_to=self.reduce_to,
            leave_out=self.leave_out,
        )


class StudentSection(Section):
    """The edge model, the weights that it starts from, and where it is cut."""

    model: str
    weights: Weights | None = None
    head: HeadKind = "grid"
    head_width: PositiveInt | None = None
    cuts: list[str] | None = None


class TeacherSection(Section):
    """One teacher: what it knows, and its weights or else how long it is taught. With both, or with
    published weights, it starts from them. Weights that are taken as they are, and learned from
    images of another mean, std or size than the data's, need these named. ``shard`` is that of
    :class:`edufast.Teacher`."""

    model: str
    classes: ClassIds | Literal["all"] | Annotated[str, Field(pattern=f"^{SHARE}$")] = "all"
    weights: Weights | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    image_size: ImageSize | None = None
    epochs: Epochs | None = None
    shard: bool = False

    @property
    def finished(self) -> Path | None:
        """The file of its weights if it is not to be trained."""
        return self.weights if isinstance(self.weights, Path) and self.epochs is None else None


class BudgetSection(Section):
    """What the device has, for the smallest exit of the student at least; see ``edufast plan``."""

    flash: Bytes | None = None
    ram: Bytes | None = None
    latency: Milliseconds | None = None


class AlgorithmSection(BaseModel):
    """The distillation algorithm by name, with its own options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "kd"


class Recipe(Section):
    """A whole run. :func:`load_recipe` reads one from YAML."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=60)]  # of a folder
    minutes: PositiveFloat | None = None  # for which what was left out is decided
    data: DataSection
    student: StudentSection
    teachers: list[TeacherSection] = Field(default_factory=list, max_length=_MOST_TEACHERS)
    curriculum: CurriculumSection
    algorithm: AlgorithmSection = AlgorithmSection()
    training: TrainingSection = TrainingSection()
    teaching: TrainingSection | None = None
    teacher_epochs: Epochs = 30
    teacher_samples: SampleCount | None = None
    teacher_image_sizes: list[ImageSize] = Field(default_factory=list)
    baselines: list[MethodName] = Field(default_factory=list)
    budget: BudgetSection | None = None
    variants: dict[VariantName, dict[str, Any]] = Field(default_factory=dict)
    seed: Seed = 0

    def variant(self, changes: Mapping[str, Any], source: str = "variant") -> Recipe:
        """The recipe with dotted keys changed, and without variants of its own.

        Args:
            changes: ``{"training.lr": 0.1}``. The key ``method`` says how a sweep trains the
                variant, and changes nothing here.
            source: named in errors.

        Raises:
            UserError: the first thing wrong with it.
        """
        method = changes.get("method", "education")
        known = get_args(MethodName)
        if method not in known:
            raise unknown(f"{source}: method", method, known)
        content = self.model_dump(mode="json", exclude={"variants"})
        for key, value in changes.items():
            if key != "method":
                override(content, key, copy.deepcopy(value), source)
        return parse_recipe(content, source)

    def with_absolute_paths(self) -> Recipe:
        """The recipe with absolute paths, to be found again from another folder."""
        listed = self.data.leave_out
        paths = {
            "source": absolute_source(self.data.source),
            "leave_out": listed and listed.absolute(),
        }
        data = self.data.model_copy(update=paths)
        teachers = [_with_absolute_paths(teacher) for teacher in self.teachers]
        student = _with_absolute_paths(self.student)
        return self.model_copy(update={"data": data, "student": student, "teachers": teachers})

    def check_files(self, source: str = "recipe") -> None:
        """Before a training: that its files of weights are there.

        Raises:
            UserError: one is not; ``source`` is named in the message.
        """
        files = {"student": self.student.weights}
        files |= {f"teachers.{k}": teacher.weights for k, teacher in enumerate(self.teachers)}
        for key, file in files.items():
            if isinstance(file, Path) and not os.path.isfile(file):
                raise UserError(
                    f"{source}: {key}.weights: {quoted(str(file))} does not exist; expected a "
                    'file of weights, such as edufast teach writes, or "pretrained"'
                )

    def with_full_teacher(self, data: DataSet) -> Recipe:
        """The recipe with a teacher of all classes, added last where there is none.

        Raises:
            UserError: there is no teacher to tell its model.
        """
        if any(len(classes) == len(data.classes) for classes in self.teacher_classes(data)):
            return self
        if not self.teachers:
            raise UserError("teachers: none; expected one of all classes, or any to tell its model")
        extra = TeacherSection(model=self.teachers[-1].model)
        return self.model_copy(update={"teachers": [*self.teachers, extra]})

    def teacher_curriculum(self, k: int, data: DataSet) -> Curriculum:
        """How teacher ``k`` is trained: its classes in as many epochs as the recipe says, each of
        ``teacher_samples`` images, or of all.

        Raises:
            UserError: ``teacher_image_sizes`` has more sizes than that, or larger ones than the
                data's images.
        """
        from edufast.training.curriculum import Curriculum

        classes = self.teacher_classes(data)[k]
        if max(self.teacher_image_sizes, default=0) > data.image_size:
            raise UserError(
                f"teacher_image_sizes: {self.teacher_image_sizes}; expected at most "
                f"{data.image_size}, the size of the images"
            )
        epochs = self.teachers[k].epochs or self.teacher_epochs
        try:
            return Curriculum.single(
                classes,
                epochs,
                samples=self.teacher_samples,
                image_sizes=self.teacher_image_sizes,
            )
        except ValueError as error:
            raise UserError(f"teachers.{k}: {error}") from error

    def create_training(self) -> Training:
        """How the student is optimised."""
        return self.training.create()

    def create_teaching(self) -> Training:
        """How teachers are optimised: like the student unless ``teaching`` says otherwise."""
        return (self.teaching or self.training).create()

    def create_student_model(self, num_classes: int) -> nn.Module:
        """The student's network with random weights, see :func:`edufast.models.zoo.create_model`.

        Raises:
            UserError: likewise; the message names the key.
        """
        return _started("student", self.student.model, num_classes, None).model

    def create_teacher_model(self, k: int, num_classes: int) -> nn.Module:
        """The network of teacher ``k``, likewise."""
        return _started(f"teachers.{k}", self.teachers[k].model, num_classes, None).model

    def start_student(self, num_classes: int) -> Start:
        """The student's network as it starts, see :func:`edufast.models.pretrained.started`.

        Raises:
            UserError: likewise; the message names the key.
        """
        return _started("student", self.student.model, num_classes, self.student.weights)

    def start_teacher(self, k: int, num_classes: int) -> Start:
        """The network of teacher ``k`` as it starts, likewise."""
        section = self.teachers[k]
        return _started(f"teachers.{k}", section.model, num_classes, section.weights)

    def create_algorithm(self) -> Algorithm:
        """The distillation algorithm."""
        from edufast.distill import create_algorithm

        options = dict(self.algorithm.model_extra or {})
        return create_algorithm(self.algorithm.name, **options)

    def teacher_classes(self, data: DataSet) -> list[tuple[int, ...]]:
        """Class ids of each teacher, in the order of its logits: as the recipe has them where its
        weights are there, else rising, as those of every graduate.

        Raises:
            UserError: an id the data set does not have.
        """
        everything = tuple(range(len(data.classes)))
        slices = []
        for k, teacher in enumerate(self.teachers):
            if teacher.classes == "all":
                classes = everything
            elif isinstance(teacher.classes, str):
                classes = _share(everything, teacher.classes, f"teachers.{k}.classes")
            else:
                classes = tuple(teacher.classes if teacher.finished else sorted(teacher.classes))
            check_class_ids(f"teachers.{k}.classes", classes, data)
            slices.append(classes)
        return slices

    def create_curriculum(self, data: DataSet) -> Curriculum:
        """The grades for ``data``.

        Raises:
            UserError: they do not fit the teachers or the data.
        """
        return self.curriculum.create(self.teacher_classes(data), data)


def _share(classes: tuple[int, ...], share: str, key: str) -> tuple[int, ...]:
    number, count = map(int, share.split("/"))
    if not number <= count <= len(classes):
        raise UserError(
            f"{key}: {share}; expected one of at most {len(classes)} shares, the number of classes"
        )
    return classes[len(classes) * (number - 1) // count : len(classes) * number // count]


Trained = TypeVar("Trained", StudentSection, TeacherSection)


def _with_absolute_paths(section: Trained) -> Trained:
    """With an absolute path of its weights."""
    if not isinstance(section.weights, Path):
        return section
    return section.model_copy(update={"weights": section.weights.absolute()})


def _started(key: str, name: str, num_classes: int, weights: Weights | None) -> Start:
    from edufast.models.pretrained import started

    try:
        return started(name, num_classes, weights)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    names = (file.name for file in (resources.files("edufast.experiments") / "recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe that leaves nothing open.

    Args:
        source: name of a shipped recipe, or the path of a YAML file.
        overrides: ``key.subkey=value`` each, the value in YAML, applied before the check.

    Raises:
        UserError: no such recipe, or the first thing wrong with it: the key, what was found and
            what was expected.
    """
    content = read_recipe(source, overrides)
    if content.get("minutes") is not None and not content.get("curriculum"):
        raise UserError(
            f"{source} leaves values open that are decided when a run begins; expected a complete "
            "recipe, such as that in config.yaml of one of its runs"
        )
    return parse_recipe(content, source)


def read_recipe(source: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe says, unchecked; the arguments are those of :func:`load_recipe`.

    Raises:
        UserError: no such recipe, it is no YAML, or an override has no place in it.
    """
    if source in shipped_recipes():
        text = (resources.files("edufast.experiments") / "recipes" / f"{source}.yaml").read_text(
            encoding="utf-8"
        )
    elif os.path.isfile(source):  # unlike Path.is_file, False for a name that is too long
        text = read_text(Path(source))
    else:
        raise unknown("recipe", source, shipped_recipes(), also="an existing YAML file")
    content = read_yaml(text, source)
    for text in overrides:
        origin = " ".join(f"--set {text}".split())
        key, separator, value = text.partition("=")
        if not separator:
            raise UserError(f"{origin}: expected key.subkey=value")
        if not value.strip():  # which a shell makes of a variable that is not set
            raise UserError(f"{origin}: expected a value behind '='; null means none")
        override(content, key, parse_value(value, origin), origin)
    return content


def parse_recipe(content: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check ``content``, its variants included, but for :meth:`Recipe.check_files`; ``source`` is
    named in errors.

    Raises:
        UserError: the first thing wrong with it.
    """
    recipe = check(Recipe, content, source)
    for k, teacher in enumerate(recipe.teachers):
        if teacher.finished and teacher.finished.suffix != ".safetensors":
            raise UserError(
                f"{source}: teachers.{k}.weights: {quoted(str(teacher.weights))}; expected a "
                ".safetensors file written by edufast, or epochs as well, in which the teacher is "
                "trained from these weights"
            )
        for key in ("mean", "std", "image_size"):
            if teacher.finished is None and getattr(teacher, key) is not None:
                how = "without weights" if teacher.weights is None else "with epochs"
                raise UserError(
                    f"{source}: teachers.{k}.{key}: {getattr(teacher, key)} {how}; a teacher that "
                    "is trained here learns from the images of data"
                )
    for name in ("training", "teaching"):
        section, size = getattr(recipe, name), recipe.data.image_size
        if section and size and section.augment.pad > size:
            raise UserError(
                f"{source}: {name}.augment.pad: found {section.augment.pad}; expected at most "
                f"data.image_size, {size}"
            )
    try:
        recipe.create_algorithm()
        recipe.curriculum.check_targets()
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    for name, changes in recipe.variants.items():
        recipe.variant(changes, f"{source}: variants.{name}")
    return recipe
