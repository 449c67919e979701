"""The curriculum of a recipe: a preset or the grades one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from edufast.data import DataSet
from edufast.experiments.fields import (
    ClassIds,
    Epochs,
    ImageSize,
    SampleCount,
    check_class_ids,
)
from edufast.experiments.schema import Section
from edufast.utils.choices import Order, Schedule
from edufast.utils.errors import UserError

# What carries a section out is imported by its methods: checking a recipe takes no torch.
if TYPE_CHECKING:
    from edufast.training.curriculum import Curriculum

# Of a curriculum as a whole.
_OPTIONS = ("order", "schedule", "keep_rows", "keep_state", "exit_weight")
# What the preset has of its own.
_FIXED = {"paper": ("shares", "freeze", "image_sizes"), "photographs": ("freeze", "image_sizes")}


class GradeSection(Section):
    """One grade; see :class:`edufast.Grade`. Classes left out are those of the teachers that did
    not teach before."""

    epochs: Epochs
    teachers: list[int] = Field(default_factory=list)
    classes: ClassIds | None = None
    fragments: PositiveInt | None = None
    target: str | None = None
    samples: SampleCount | None = None
    freeze: list[float] = Field(default_factory=list)
    rehearsal: float | None = None
    image_size: ImageSize | None = None


class CurriculumSection(Section):
    """Either a preset with a number of epochs, or the grades one by one; see
    :class:`edufast.Curriculum`. What is left out is as the preset has it. ``target`` is that of all
    grades of slice teachers which name none of their own."""

    preset: Literal["default", "photographs", "paper"] | None = None
    epochs: Epochs | None = None
    shares: list[PositiveFloat] | None = None
    samples: SampleCount | None = None
    grades: list[GradeSection] | None = None
    freeze: list[float] | None = None
    image_sizes: list[ImageSize] | None = None
    target: str | None = None
    order: Order | None = None
    schedule: Schedule | None = None
    keep_rows: bool | None = None
    keep_state: bool | None = None
    exit_weight: float | None = None

    @property
    def keeps_exits(self) -> bool:
        """Whether the heads of earlier grades stay in the student as exits."""
        if self.exit_weight is None:
            return self.grades is None and self.preset in (None, "default")
        return self.exit_weight > 0

    def check_targets(self) -> None:
        """Check that every target is known.

        Raises:
            UserError: one is not; the message names its key.
        """
        from edufast.teachers.targets import find_target

        targets = {"curriculum": self.target}
        for number, grade in enumerate(self.grades or ()):
            targets[f"curriculum.grades.{number}"] = grade.target
        for key, target in targets.items():
            try:
                find_target(target or "none")
            except UserError as error:
                raise UserError(f"{key}: {error}") from error

    def create(self, knows: Sequence[Sequence[int]], data: DataSet) -> Curriculum:
        """The grades for ``data``.

        Args:
            knows: class ids of each teacher.
            data: what is learned.

        Raises:
            UserError: preset and grades do not fit, a class is in no grade or in two or has no
                images, a teacher is named that there is not.
        """
        try:
            curriculum = self._preset(knows, data) if self.grades is None else self._explicit(knows)
            options = {name: getattr(self, name) for name in _OPTIONS}
            given = {name: value for name, value in options.items() if value is not None}
            curriculum = replace(curriculum, **given)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"curriculum: {error}") from error
        check_class_ids("curriculum.grades", curriculum.class_map.ids, data)
        forgotten = sorted(set(range(len(data.classes))) - set(curriculum.class_map.ids))
        if forgotten:
            raise UserError(
                f"curriculum: class {forgotten[0]} ({data.classes[forgotten[0]]}) is in no grade; "
                f"expected each of the {len(data.classes)} classes of {data.name} in one"
            )
        data.check_taught(curriculum.class_map.ids)
        return curriculum

    def _preset(self, knows: Sequence[Sequence[int]], data: DataSet) -> Curriculum:
        from edufast.training.curriculum import Curriculum

        if self.epochs is None:
            raise UserError("curriculum.epochs: missing; expected a number, or grades")
        full = [k for k, classes in enumerate(knows) if len(set(classes)) == len(data.classes)]
        slices = [classes for k, classes in enumerate(knows) if k not in full]
        photographs = self.preset == "photographs"
        if (full and full != [len(slices)]) or not (slices or (full and photographs)):
            raise UserError(
                f"curriculum.preset: needs slice teachers first{', if any,' if photographs else ''}"
                " and at most one teacher of all classes, last; found teachers of "
                f"{[len(c) for c in knows]} classes"
            )
        self._refuse(_FIXED.get(self.preset or "", ()), f"the preset {self.preset} has its own")
        full_teacher = full[0] if full else None
        if self.preset == "paper":
            curriculum = Curriculum.paper(slices, self.epochs, samples=self.samples)
        elif photographs:
            curriculum = Curriculum.photographs(
                slices or [knows[full[0]]],
                self.epochs,
                image_size=data.image_size,
                shares=self.shares,
                full_teacher=full_teacher,
                samples=self.samples,
            )
        else:
            curriculum = Curriculum.graded(
                slices,
                self.epochs,
                shares=self.shares,
                full_teacher=full_teacher,
                samples=self.samples,
                freeze=self.freeze,
                image_sizes=self.image_sizes or (),
            )
        if self.target is None:
            return curriculum
        grades = [
            grade if grade.target == "full" else replace(grade, target=self.target)
            for grade in curriculum.grades
        ]
        return replace(curriculum, grades=grades)

    def _explicit(self, knows: Sequence[Sequence[int]]) -> Curriculum:
        from edufast.training.curriculum import Curriculum, Grade

        if self.epochs or self.preset:
            raise UserError("curriculum: found grades and epochs; expected either of them")
        self._refuse(("samples", "shares", "freeze"), "grades have their own")
        if self.image_sizes:  # that there are none is what a folder's recipe may ask
            self._refuse(("image_sizes",), "grades have their own")
        grades = []
        taught: set[int] = set()
        for number, section in enumerate(self.grades or ()):
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
            if section.target is None and section.teachers:
                fields["target"] = self.target
            grades.append(Grade(**fields, classes=classes))
        return Curriculum(grades)

    def _refuse(self, keys: Sequence[str], reason: str) -> None:
        for key in keys:
            if (value := getattr(self, key)) is not None:
                raise UserError(f"curriculum.{key}: found {value}; expected none, because {reason}")
