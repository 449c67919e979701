"""Recipes: a run described in YAML, checked before anything starts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from edufast.curriculum import Curriculum, Grade, Order, Schedule, Target
from edufast.data import Augment, DataSet
from edufast.errors import UserError
from edufast.heads import Kind
from edufast.losses import Algorithm, create_algorithm
from edufast.training import Training

# `2/3`: the second of three equal shares of the classes.
_SHARE = r"[1-9]\d*/[1-9]\d*"

Method = Literal["scratch", "kd", "routed", "education"]


def _class_ids(value: object) -> object:
    """`0-19` or `0-4,7,9-12` as written in YAML, to a list of integers."""
    if not isinstance(value, str) or value == "all" or re.fullmatch(_SHARE, value):
        return value
    ids: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not match:
            raise ValueError(f"{part.strip()!r} is no class range; expected for instance 0-19")
        first, last = int(match[1]), int(match[2] or match[1])
        ids += range(first, last + 1)
    return ids


ClassIds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_class_ids)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """Which images to learn from: see :func:`edufast.data.load_dataset`."""

    source: str
    image_size: PositiveInt | None = None


class StudentSection(_Section):
    """The edge model and where it is cut."""

    model: str
    head: Kind = "pool_first"
    head_width: PositiveInt | None = None
    cuts: list[str] | None = None


class TeacherSection(_Section):
    """One teacher: what it knows, and its weights or else how long it is taught."""

    model: str
    classes: ClassIds | Literal["all"] | Annotated[str, Field(pattern=f"^{_SHARE}$")] = "all"
    weights: Path | None = None
    epochs: PositiveInt | None = None


class GradeSection(_Section):
    """One grade; see :class:`edufast.Grade`. Classes left out are those of the teachers that did
    not teach before."""

    epochs: PositiveInt
    teachers: list[int] = []
    classes: ClassIds | None = None
    fragments: PositiveInt | None = None
    target: Target | None = None
    samples: PositiveInt | None = None


class CurriculumSection(_Section):
    """Either a preset with a number of epochs, or the grades one by one."""

    preset: Literal["default", "paper"] | None = None
    epochs: PositiveInt | None = None
    shares: list[PositiveFloat] | None = None
    samples: PositiveInt | None = None
    grades: list[GradeSection] | None = None
    order: Order = "mixed"
    schedule: Schedule = "held"
    keep_rows: bool = False
    keep_state: bool = True


class AlgorithmSection(BaseModel):
    """The distillation algorithm by name, with its own options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "kd"


class AugmentSection(_Section):
    """Random views; see :class:`edufast.data.Augment`."""

    pad: Annotated[int, Field(ge=0)] = 4
    flip: bool = True
    random_resized_crop: tuple[float, float] | None = None


class TrainingSection(_Section):
    """The optimiser's settings; see :class:`edufast.Training`."""

    batch_size: PositiveInt = 128
    lr: PositiveFloat = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    exit_weight: Annotated[float, Field(ge=0)] = 0.0
    augment: AugmentSection = AugmentSection()


class Recipe(_Section):
    """A whole run. :func:`load_recipe` reads one from YAML."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    data: DataSection
    student: StudentSection
    teachers: list[TeacherSection] = []
    curriculum: CurriculumSection
    algorithm: AlgorithmSection = AlgorithmSection()
    training: TrainingSection = TrainingSection()
    teaching: TrainingSection | None = None
    teacher_epochs: PositiveInt = 30
    baselines: list[Method] = []
    seed: Annotated[int, Field(ge=0)] = 0

    def create_training(self) -> Training:
        """How the student is optimised."""
        return _training(self.training)

    def create_teaching(self) -> Training:
        """How teachers are optimised: like the student unless ``teaching`` says otherwise."""
        return _training(self.teaching or self.training)

    def create_algorithm(self) -> Algorithm:
        """The distillation algorithm."""
        options = dict(self.algorithm.model_extra or {})
        return create_algorithm(self.algorithm.name, **options)

    def teacher_classes(self, data: DataSet) -> list[tuple[int, ...]]:
        """Class ids of each teacher.

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
                classes = tuple(teacher.classes)
            _check_ids(f"teachers.{k}.classes", classes, data)
            slices.append(classes)
        return slices

    def create_curriculum(self, data: DataSet) -> Curriculum:
        """The grades for ``data``.

        Raises:
            UserError: preset and grades do not fit, a class is in no grade or in two, a teacher
                is named that there is not.
        """
        section, knows = self.curriculum, self.teacher_classes(data)
        full = [k for k, classes in enumerate(knows) if len(set(classes)) == len(data.classes)]
        slices = [classes for k, classes in enumerate(knows) if k not in full]
        try:
            if section.grades is not None and (section.epochs or section.preset):
                raise UserError("curriculum: found grades and epochs; expected either of them")
            elif section.grades is not None:
                curriculum = self._explicit(section.grades, knows)
            elif section.epochs is None:
                raise UserError("curriculum.epochs: missing; expected a number, or grades")
            elif not slices or (full and full != [len(slices)]):
                raise UserError(
                    "curriculum.preset: needs slice teachers first and at most one teacher of all "
                    f"classes, last; found teachers of {[len(c) for c in knows]} classes"
                )
            elif section.preset == "paper":
                curriculum = Curriculum.paper(slices, section.epochs, samples=section.samples)
            else:
                curriculum = Curriculum.graded(
                    slices,
                    section.epochs,
                    shares=section.shares,
                    full_teacher=full[0] if full else None,
                    samples=section.samples,
                )
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"curriculum: {error}") from error
        _check_ids("curriculum.grades", curriculum.class_order, data)
        forgotten = sorted(set(range(len(data.classes))) - set(curriculum.class_order))
        if forgotten:
            raise UserError(
                f"curriculum: class {forgotten[0]} ({data.classes[forgotten[0]]}) is in no grade; "
                f"expected each of the {len(data.classes)} classes of {data.name} in one"
            )
        return curriculum

    def _explicit(
        self, sections: Sequence[GradeSection], knows: Sequence[Sequence[int]]
    ) -> Curriculum:
        grades = []
        taught: set[int] = set()
        for number, section in enumerate(sections):
            for k in section.teachers:
                if not 0 <= k < len(knows):
                    raise UserError(
                        f"curriculum.grades.{number}.teachers: {k}; expected 0 to {len(knows) - 1}"
                    )
            classes: Sequence[int]
            if section.classes is None:
                known = (c for k in section.teachers for c in knows[k])
                classes = [c for c in dict.fromkeys(known) if c not in taught]
            else:
                classes = section.classes
            taught.update(classes)
            fields = section.model_dump(exclude={"classes"})
            grades.append(Grade(**fields, classes=classes))
        s = self.curriculum
        return Curriculum(grades, s.order, s.schedule, s.keep_rows, s.keep_state)


def _share(classes: tuple[int, ...], share: str, key: str) -> tuple[int, ...]:
    number, count = map(int, share.split("/"))
    if not number <= count <= len(classes):
        raise UserError(
            f"{key}: {share}; expected one of at most {len(classes)} shares, the number of classes"
        )
    return classes[len(classes) * (number - 1) // count : len(classes) * number // count]


def _training(section: TrainingSection) -> Training:
    augment = Augment(**section.augment.model_dump())
    return Training(**section.model_dump(exclude={"augment"}), augment=augment)


def _check_ids(key: str, classes: Sequence[int], data: DataSet) -> None:
    for c in classes:
        if not 0 <= c < len(data.classes):
            raise UserError(
                f"{key}: class {c}; expected 0 to {len(data.classes) - 1}, the classes of "
                f"{data.name}"
            )


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
    names = (file.name for file in (resources.files("edufast") / "recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: name of a shipped recipe, or the path of a YAML file.
        overrides: ``key.subkey=value`` each, the value in YAML, applied before the check.

    Raises:
        UserError: no such recipe, or the first thing wrong with it: the key, what was found and
            what was expected.
    """
    if source in shipped_recipes():
        text = (resources.files("edufast") / "recipes" / f"{source}.yaml").read_text()
    elif Path(source).is_file():
        text = Path(source).read_text()
    else:
        raise UserError(
            f"recipe {source!r}: no such file; shipped recipes are {', '.join(shipped_recipes())}"
        )
    try:
        content = yaml.safe_load(text)
        for override in overrides:
            _override(content, override)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source}: found {type(content).__name__}; expected keys and values")
    return parse_recipe(content, source)


def parse_recipe(content: dict[str, Any], source: str = "recipe") -> Recipe:
    """Check ``content``; ``source`` is named in errors.

    Raises:
        UserError: the first thing wrong with it.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from error
    for k, teacher in enumerate(recipe.teachers):
        if teacher.weights is not None and not teacher.weights.is_file():
            raise UserError(
                f"{source}: teachers.{k}.weights: {str(teacher.weights)!r} does not exist; "
                "expected a .safetensors file written by edufast teach"
            )
    recipe.create_algorithm()
    return recipe


def _override(content: Any, override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator:
        raise UserError(f"--set {override}: expected key.subkey=value")
    *path, last = key.split(".")
    section = content
    for name in path:
        section = _enter(section, name, override)
    if isinstance(section, list):
        _enter(section, last, override)
        section[int(last)] = yaml.safe_load(value)
    else:
        section[last] = yaml.safe_load(value)


def _enter(section: Any, name: str, override: str) -> Any:
    """The item ``name`` of a section or list of sections; a section that is not there begins."""
    if isinstance(section, list):
        if not name.isdigit() or int(name) >= len(section):
            raise UserError(
                f"--set {override}: {name} is no position in a list of {len(section)} entries"
            )
        return section[int(name)]
    inner = section.setdefault(name, {})
    if not isinstance(inner, (dict, list)):
        raise UserError(f"--set {override}: {name} is not a section")
    return inner


def _explain(error: ValidationError) -> str:
    """The first error in one line: key, value found, value expected."""
    # A mistyped key is reported as missing, too: the unknown key says more.
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    # A union reports every branch; the branch names are no keys of the file.
    key = ".".join(str(part) for part in first["loc"] if not _is_branch(part))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(first["loc"][-1]), _known_keys(first["loc"][:-1]))
        hint = (
            f"did you mean {close[0]!r}?"
            if close
            else "expected one of " + ", ".join(_known_keys(first["loc"][:-1]))
        )
        return f"{key}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: found {first['input']!r}; {message[0].lower()}{message[1:]}"


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part == "literal")


def _known_keys(location: Sequence[int | str]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    return sorted(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as ``list[GradeSection] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section_of(argument) for argument in get_args(annotation))
    return next((section for section in inner if section is not None), None)
