"""What a School was made with, kept in its checkpoints, from which no other training may go on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields

from edufast.data import DataSet, Samples
from edufast.distill import Algorithm
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum, Grade
from edufast.training.settings import Training


def described(
    student: Student,
    faculty: Faculty,
    curriculum: Curriculum,
    data: DataSet,
    algorithm: Algorithm,
    training: Training,
) -> dict[str, str]:
    """The arguments of a School by name, as text, before anything has learned.

    What differs between machines is left out (where the data are, how pixels are rounded, whether
    steps are compiled), and so are weights: a model is told by the checkpoint itself, and a teacher
    that was trained anew has the same classes.
    """
    found: dict[str, object] = {
        "student.cuts": [fragment.name for fragment in student.fragments],
        "student.seed": student.seed,
        "data.classes": data.classes,
        "data.image_size": data.image_size,
        "data.train": _described(data.train),
        "data.val": _described(data.val),
        "algorithm": type(algorithm).__name__,
    }
    for path, part in algorithm.named_modules():
        where = f"algorithm.{path}." if path else "algorithm."
        for name, value in vars(part).items():
            if _is_option(value) and name[0] != "_" and name != "training":
                found[where + name] = value
    for name in ("order", "schedule", "keep_rows", "keep_state", "exit_weight"):
        found[f"curriculum.{name}"] = getattr(curriculum, name)
    for g, grade in enumerate(curriculum.grades):
        for field in fields(Grade):
            found[f"grades[{g}].{field.name}"] = getattr(grade, field.name)
        for k in grade.teachers:
            found[f"teachers[{k}].classes"] = faculty[k].classes
    for field in fields(Training):
        if field.name != "compile":
            found[f"training.{field.name}"] = getattr(training, field.name)
    return {name: str(value) for name, value in found.items()}


def check_same(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Check that a School has the arguments of the one that saved a checkpoint.

    Raises:
        ValueError: one differs; the message names it.
    """
    for name in {**before, **now}:
        was, found = before.get(name, "missing"), now.get(name, "missing")
        if was != found:
            raise ValueError(f"{name} was {was} and is {found} now")


def _is_option(value: object) -> bool:
    """Whether a value is alike in every process as text: a number, a name, or several of them."""
    several = value if isinstance(value, tuple | list) else (value,)
    return all(isinstance(one, int | float | str) for one in several)


def _described(samples: Samples) -> str:
    digest = hashlib.sha256(samples.labels.tobytes()).hexdigest()
    return f"{len(samples)} images with labels of hash {digest[:12]}"
