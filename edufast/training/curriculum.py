"""The curriculum: what each grade teaches, with which fragments and teachers, for how long."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from edufast.data.class_map import ClassMap
from edufast.teachers.targets import find_target
from edufast.teachers.teacher import Teacher
from edufast.utils.choices import Order, Schedule
from edufast.utils.instances import all_of, check_choice, check_instance
from edufast.utils.numbers import real_number, real_numbers, whole_number, whole_numbers

# Authors' schedule: 240 epochs, rate x0.1 at 150, 180 and 210, new grades at 150 and 180.
PAPER_EPOCHS = (150, 30, 60)
_PAPER_DECAYS = (150 / 240, 180 / 240, 210 / 240)


@dataclass(frozen=True)
class Grade:
    """One stage of the curriculum.

    Attributes:
        epochs: number of epochs; accuracy is measured after each.
        classes: class ids that this grade adds to those of earlier grades. Empty: none, the grade
            only adds depth.
        teachers: positions in the faculty of this grade's teachers.
        fragments: number of fragments that exist; None: one more than in the grade before. With the
            same number as before, the grade only adds classes.
        target: what is distilled: "routed", "full", "none", or how slice teachers are merged, such
            as "gated"; see :func:`edufast.teachers.targets.registry.find_target`. None: "gated" if
            there are teachers, else "none".
        samples: samples per epoch; None: all training samples of the classes taught so far.
        freeze: shares of the grade's epochs, in [0, 1] and rising, after which fragment 1, 2, ...
            stops learning, which saves its backward pass. (0.5,): the first fragment, half-way.
        rehearsal: share of every batch, in (0, 1), for classes of earlier grades; in mixed order
            only. None: in proportion to their samples.
        image_size: height and width to which the student's images are reduced; cost is proportional
            to the area. Teachers see whole images. None: whole images.
    """

    epochs: int
    classes: Sequence[int] = ()
    teachers: Sequence[int] = ()
    fragments: int | None = None
    target: str | None = None
    samples: int | None = None
    freeze: Sequence[float] = ()
    rehearsal: float | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "epochs", whole_number("epochs", self.epochs))
        for name in ("samples", "fragments", "image_size"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, value))
        for name in ("classes", "teachers"):
            object.__setattr__(self, name, whole_numbers(name, getattr(self, name), 0))
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError(f"teachers is {list(self.teachers)}; expected each once")
        object.__setattr__(self, "freeze", real_numbers("freeze", self.freeze))
        if self.target is not None:
            check_instance("target", self.target, str)
        else:
            object.__setattr__(self, "target", "gated" if self.teachers else "none")
        find_target(self.target or "none")
        if (self.target == "none") != (not self.teachers):
            raise ValueError(
                f"target is {self.target!r} with teachers {list(self.teachers)}; expected teachers "
                "exactly when there is a target"
            )
        if list(self.freeze) != sorted(self.freeze) or not all(0 <= f <= 1 for f in self.freeze):
            raise ValueError(f"freeze is {self.freeze}; expected rising shares from 0 to 1")
        if self.rehearsal is not None and not 0 < real_number("rehearsal", self.rehearsal) < 1:
            raise ValueError(f"rehearsal is {self.rehearsal}; expected a share between 0 and 1")

    def frozen(self, epoch: int) -> int:
        """Number of fragments, from the first, that no longer learn in ``epoch`` (from 0)."""
        return sum(epoch >= share * self.epochs for share in self.freeze)


@dataclass(frozen=True)
class Curriculum:
    """The ordered grades.

    Attributes:
        grades: at least one. No class is added twice.
        order: of the samples within an epoch. "mixed": batches mix all classes taught; "slices":
            one grade's classes after another's (the authors' order).
        schedule: of the learning rate. "held": warm-up in every grade, then constant, and annealed
            (half a cosine) in the last grade only. "restart": warm-up and annealing in every grade.
            "paper": no warm-up, x0.1 at 150/240, 180/240 and 210/240 of all steps.
        keep_rows: whether to copy the classifier's trained rows into the next head.
        keep_state: whether to keep the optimiser's state of the parameters that remain.
        exit_weight: weight of the losses of exits. Above 0, the heads of earlier grades are kept as
            exits and trained along with the rest.
        class_map: of the student's logits once all classes are taught, with a slice for each grade.
    """

    grades: Sequence[Grade]
    order: Order = "mixed"
    schedule: Schedule = "held"
    keep_rows: bool = False
    keep_state: bool = True
    exit_weight: float = 0.0
    class_map: ClassMap = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "grades", all_of("grades", self.grades, Grade))
        if not self.grades:
            raise ValueError("grades is empty; expected at least one grade")
        for name in ("keep_rows", "keep_state"):
            check_instance(name, getattr(self, name), bool)
        check_choice("order", self.order, get_args(Order))
        check_choice("schedule", self.schedule, get_args(Schedule))
        seen: dict[int, int] = {}
        for number, grade in enumerate(self.grades, 1):
            for c in grade.classes:
                if c in seen:
                    raise ValueError(
                        f"class {c} is added by grade {seen[c]} and by grade {number}; expected "
                        "each class in one grade"
                    )
                seen[c] = number
        if not self.grades[0].classes:
            raise ValueError("grade 1 adds no classes; expected at least one")
        object.__setattr__(self, "class_map", self.taught(len(self.grades) - 1))
        if list(self.fragments) != sorted(self.fragments) or self.fragments[0] < 1:
            raise ValueError(
                f"fragments per grade are {list(self.fragments)}; expected at least 1, never fewer "
                "than in the grade before"
            )
        for number, grade in enumerate(self.grades, 1):
            if grade.rehearsal is None:
                continue
            if self.order != "mixed" or number == 1 or not grade.classes:
                raise ValueError(
                    f"rehearsal is {grade.rehearsal} in grade {number}; expected it only where "
                    "a grade in mixed order adds classes to those of grades before"
                )
        if self.grades[-1].image_size is not None:
            raise ValueError(
                f"image_size is {self.grades[-1].image_size} in the last grade; expected none, "
                "because the graduate takes images as they are"
            )
        object.__setattr__(self, "exit_weight", real_number("exit_weight", self.exit_weight))
        for grade, fragments in zip(self.grades, self.fragments, strict=True):
            if len(grade.freeze) >= fragments:
                raise ValueError(
                    f"freeze is {grade.freeze} in a grade of {fragments} fragments; expected the "
                    "last one to keep learning"
                )

    @property
    def fragments(self) -> tuple[int, ...]:
        """Number of fragments in each grade."""
        counts: list[int] = []
        for grade in self.grades:
            before = counts[-1] if counts else 0
            counts.append(before + 1 if grade.fragments is None else grade.fragments)
        return tuple(counts)

    def taught(self, grade: int) -> ClassMap:
        """The classes taught up to and including ``grade`` (from 0), a slice for each grade."""
        return ClassMap.of(*(g.classes for g in self.grades[: grade + 1]))

    def shown_to(self, teachers: Sequence[Teacher]) -> dict[int, set[int]]:
        """Class ids of the samples that each teacher is shown, by its position in the faculty: its
        own classes in routed grades, in others all classes, as far as taught at the time."""
        shown: dict[int, set[int]] = {}
        for g, grade in enumerate(self.grades):
            for k in grade.teachers:
                taught = set(self.taught(g).ids)
                routed = grade.target == "routed"
                classes = taught.intersection(teachers[k].classes) if routed else taught
                shown.setdefault(k, set()).update(classes)
        return shown

    def learning_rate(self, grade: int, step: int, steps: Sequence[int]) -> float:
        """Factor on the base learning rate in ``step`` (from 0) of ``grade`` (from 0).

        Args:
            steps: number of optimiser steps in each grade.
        """
        if self.schedule == "paper":
            progress = (sum(steps[:grade]) + step) / sum(steps)
            return float(0.1 ** sum(progress >= decay for decay in _PAPER_DECAYS))
        warmup = min(100, math.ceil(0.1 * steps[grade]))
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.schedule == "held" and grade < len(self.grades) - 1:
            return 1.0
        progress = (step - warmup) / max(1, steps[grade] - warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))

    @classmethod
    def graded(
        cls,
        slices: Sequence[Sequence[int]],
        epochs: int,
        *,
        shares: Sequence[float] | None = None,
        full_teacher: int | None = None,
        samples: int | None = None,
        freeze: Sequence[float] | None = None,
        image_sizes: Sequence[int] = (),
        fragments: int | None = None,
    ) -> Curriculum:
        """The default: a grade for each slice, short early grades, targets that span slices.

        Grade g adds slice g, fragment g and teacher g, and distils the gated target. With a
        ``full_teacher``, grades that teach all classes distil that teacher instead. The order is
        mixed and the learning rate held; exits are trained along with the rest, and the first
        fragment stops learning half-way through the last grade. docs/evidence_characters.md reports
        the effect of each. For photographs there is :meth:`photographs`.

        Args:
            slices: classes of each slice teacher; these are the first teachers of the faculty.
            epochs: number of epochs in all grades together.
            shares: relative lengths of the grades; None: 1 for each but the last, which gets 6.
            full_teacher: position in the faculty of a teacher that knows every class.
            samples: samples per epoch; None: all samples of the classes taught.
            freeze: of the last grade, see :class:`Grade`; None: (0.5,) if it is not the only one.
            image_sizes: of the first grades, rising; those that follow have whole images. As many
                as there are slices, or more, make grades that add no classes.
            fragments: of the student; None: one for each slice.

        Raises:
            ValueError: ``shares`` are not one positive number a grade, ``image_sizes`` fall, or
                ``fragments`` is not a whole number above 0.
        """
        slices = _slices(slices)
        image_sizes = _rising(image_sizes)
        fragments = len(slices) if fragments is None else whole_number("fragments", fragments)
        complete, count = len(slices), max(len(slices), len(image_sizes) + 1)
        shares = [1.0] * (count - 1) + [6.0] if shares is None else list(shares)
        if len(shares) != count:
            raise ValueError(f"shares has {len(shares)} numbers; expected {count}, one a grade")
        lengths = _split(epochs, shares)
        grades = []
        for g in range(count):
            known = min(g + 1, complete)
            grade = Grade(
                lengths[g],
                slices[g] if g < complete else (),
                range(known),
                fragments=min(g + 1, fragments),
                samples=samples,
                image_size=image_sizes[g] if g < len(image_sizes) else None,
            )
            if full_teacher is not None and known == complete:
                grade = replace(grade, teachers=(full_teacher,), target="full")
            grades.append(grade)
        if freeze is None:
            freeze = (0.5,) if count > 1 else ()
        grades[-1] = replace(grades[-1], freeze=freeze)
        return cls(grades, exit_weight=0.3)

    @classmethod
    def photographs(
        cls,
        slices: Sequence[Sequence[int]],
        epochs: int,
        *,
        image_size: int,
        shares: Sequence[float] | None = None,
        full_teacher: int | None = None,
        samples: int | None = None,
    ) -> Curriculum:
        """For photographs: what they show can be recognised at a fraction of their size, where a
        step is cheap.

        As :meth:`graded`, with images of 3/8, 1/2 and 3/4 of their size in the first three grades.
        The whole student, a single fragment, learns from the first grade on: growing depth, exits
        and frozen fragments gain nothing on photographs (docs/evidence.md).

        Args:
            slices: classes of each slice teacher, or all classes as the only slice if nobody but
                the ``full_teacher`` teaches.
            epochs: number of epochs in all grades together.
            image_size: of whole images, in pixels.
            shares: relative lengths of the grades; None: 2, 2 and 3 for those of smaller images,
                and 4 for those of whole ones.
            full_teacher: position in the faculty of a teacher that knows every class.
            samples: samples per epoch; None: all samples of the classes taught.

        Raises:
            ValueError: ``shares`` are not one positive number a grade, or ``image_size`` is not a
                whole number above 0.
        """
        slices, size = _slices(slices), whole_number("image_size", image_size)
        image_sizes = [round(size * share) for share in (3 / 8, 1 / 2, 3 / 4)]
        whole = max(1, len(slices) - len(image_sizes))
        curriculum = cls.graded(
            slices,
            epochs,
            shares=[2, 2, 3, *[4 / whole] * whole] if shares is None else shares,
            full_teacher=full_teacher,
            samples=samples,
            freeze=(),
            image_sizes=image_sizes,
            fragments=1,
        )
        return replace(curriculum, exit_weight=0.0)

    @classmethod
    def paper(
        cls, slices: Sequence[Sequence[int]], epochs: int = 240, *, samples: int | None = None
    ) -> Curriculum:
        """The authors' exact schedule for three slices (arXiv 2311.13811 and its code).

        New grades begin after 150 and 180 of 240 epochs, when the learning rate also decays. The
        slices follow each other within an epoch, targets are routed, and the momentum is
        discarded when a grade begins. Other numbers of ``epochs`` are split in proportion.

        Raises:
            ValueError: there are not three slices.
        """
        slices = _slices(slices)
        if len(slices) != len(PAPER_EPOCHS):
            raise ValueError(
                f"the authors' schedule has {len(PAPER_EPOCHS)} grades; there are {len(slices)} "
                "slices"
            )
        lengths = _split(epochs, PAPER_EPOCHS)
        grades = [
            Grade(lengths[g], slices[g], range(g + 1), target="routed", samples=samples)
            for g in range(len(slices))
        ]
        return cls(grades, order="slices", schedule="paper", keep_state=False)

    @classmethod
    def single(
        cls,
        classes: Sequence[int],
        epochs: int,
        *,
        teachers: Sequence[int] = (),
        target: str = "none",
        samples: int | None = None,
        image_sizes: Sequence[int] = (),
    ) -> Curriculum:
        """Plain training, or distillation, without growth: a single grade.

        Args:
            epochs: number of epochs in all.
            classes: class ids.
            teachers: positions in the faculty.
            target: what is distilled, see :class:`Grade`.
            samples: samples per epoch; None: all samples of the classes.
            image_sizes: rising; each has a grade before that of whole images, all of equal length.

        Raises:
            ValueError: ``image_sizes`` fall.
        """
        image_sizes = _rising(image_sizes)
        lengths = _split(epochs, [1.0] * (len(image_sizes) + 1))
        sizes = [*image_sizes, None]
        grades = [
            Grade(
                length,
                () if number else classes,
                teachers,
                fragments=1,
                target=target,
                samples=samples,
                image_size=size,
            )
            for number, (length, size) in enumerate(zip(lengths, sizes, strict=True))
        ]
        return cls(grades)


def _slices(slices: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    if isinstance(slices, str) or not isinstance(slices, Iterable):
        raise ValueError(f"slices is {slices!r}; expected a sequence of classes for each slice")
    return [whole_numbers(f"slices[{n}]", classes, 0) for n, classes in enumerate(slices)]


def _rising(image_sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = whole_numbers("image_sizes", image_sizes)
    if list(sizes) != sorted(sizes):
        raise ValueError(f"image_sizes are {list(sizes)}; expected rising sizes")
    return sizes


def _split(epochs: int, shares: Sequence[float]) -> list[int]:
    """Divide ``epochs`` in proportion to ``shares`` into whole numbers of at least 1."""
    epochs = whole_number("epochs", epochs)
    shares = [real_number("shares", share) for share in shares]
    total = sum(shares)
    if not min(shares) > 0 or not math.isfinite(total):
        raise ValueError(f"shares are {list(shares)}; expected positive numbers of a finite sum")
    if epochs < len(shares):
        raise ValueError(f"epochs is {epochs}; expected at least {len(shares)}, one for each grade")
    ends = [0]
    for position in range(1, len(shares) + 1):
        ideal = round(epochs * (sum(shares[:position]) / total))
        rest = len(shares) - position
        ends.append(min(max(ideal, ends[-1] + 1), epochs - rest))
    return [b - a for a, b in itertools.pairwise(ends)]
