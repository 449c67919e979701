"""Whether student, faculty, curriculum, data and algorithm fit together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch

from edufast.data import Batch, DataSet, Samples
from edufast.data.image_files import files_of
from edufast.data.policy import transform
from edufast.distill import Algorithm, FeatureAlgorithm
from edufast.models.global_batch_norm import batch_norms
from edufast.models.tracing import gives_probabilities
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum
from edufast.training.settings import SchoolOptions, Training
from edufast.utils.collectives import gather_rows
from edufast.utils.errors import UserError
from edufast.utils.instances import check_instance
from edufast.utils.ranks import size


def check_kinds(
    student: object,
    faculty: object,
    curriculum: object,
    data: object,
    algorithm: object,
    training: object | None,
    options: object | None,
) -> None:
    """Check that a School is given what it takes.

    Raises:
        TypeError: an argument is of another kind; the message names it.
    """
    check_instance("student", student, Student)
    check_instance("faculty", faculty, Faculty)
    check_instance("curriculum", curriculum, Curriculum)
    check_instance("data", data, DataSet)
    check_instance("algorithm", algorithm, str, Algorithm)
    if training is not None:
        check_instance("training", training, Training)
    if options is not None:
        check_instance("options", options, SchoolOptions)


def check_fit(
    student: Student,
    faculty: Faculty,
    curriculum: Curriculum,
    data: DataSet,
    algorithm: Algorithm,
    training: Training,
) -> None:
    """Check what a School is given, before anything is trained.

    Raises:
        ValueError: something does not fit; the message names it.
    """
    _check_algorithm(algorithm, faculty)
    _check_student(student, data)
    classes = len(data.classes)
    unknown = [c for c in curriculum.class_map.ids if not 0 <= c < classes]
    if unknown:
        raise ValueError(f"the curriculum teaches class {unknown[0]}; {data.name} has {classes}")
    data.check_taught(curriculum.class_map.ids)
    if training.compile is True and curriculum.order == "slices":
        raise ValueError(
            "compile is True, but in the order 'slices' the composition of batches changes and "
            "each would be compiled; expected compile 'auto' or False, or the order 'mixed'"
        )
    if training.policy != "none":
        transform(training.policy)  # needs a package
    if training.unstored and isinstance(faculty, CachedFaculty) and _teach(curriculum):
        raise ValueError(
            f"{training.unstored}, but stored logits are of whole images; expected no cache"
        )
    _check_labels(training, curriculum, algorithm)
    batch_norms(student)


def _check_algorithm(algorithm: Algorithm, faculty: Faculty) -> None:
    if algorithm.reads_features and not faculty.has_features:
        raise ValueError(
            f"faculty: {type(algorithm).__name__} reads the teachers' features; a "
            f"{type(faculty).__name__} provides their logits only"
        )
    for part in algorithm.modules():
        if isinstance(part, FeatureAlgorithm) and list(part.adapters.parameters()):
            name = type(part).__name__
            raise ValueError(
                f"algorithm has adapters that {name} learned in another School; expected a new "
                f"{name}"
            )


def _check_student(student: Student, data: DataSet) -> None:
    if student.grown:
        raise ValueError(f"student has {student.grown} fragments already; expected a new Student")
    for name, tensor in (*student.named_parameters(), *student.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"{name} of the student is on meta; expected a tensor with values")
    for name, parameter in student.named_parameters():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"{name} of the student is {parameter.dtype}; expected torch.float32, and "
                "Training(precision='bf16') to compute in bfloat16"
            )
    if gives_probabilities(student.model, student.input_size):
        warnings.warn(
            "the student gives probabilities; expected logits, as they are before a softmax",
            stacklevel=4,
        )
    expected = (3, data.image_size, data.image_size)
    if student.input_size != expected:
        raise ValueError(
            f"student has input_size {student.input_size}; expected that of "
            f"{data.name}, Student(..., input_size={expected})"
        )


def _check_labels(training: Training, curriculum: Curriculum, algorithm: Algorithm) -> None:
    """What asks for the one class of a sample does not go with labels spread over several."""
    if training.mix != "none":
        found, without = f"mix is {training.mix!r}, but", "mix 'none'"
        for number, grade in enumerate(curriculum.grades, 1):
            if grade.target not in ("none", "full"):
                raise ValueError(
                    f"{found} the target of grade {number} is {grade.target!r}, which asks whose "
                    f"class an image shows; expected the targets 'full' or 'none', or {without}"
                )
        _check_soft_labels(found, curriculum, algorithm, without)
    if training.label_smoothing:
        found, without = f"label_smoothing is {training.label_smoothing}, but", "label_smoothing 0"
        for number, grade in enumerate(curriculum.grades, 1):
            if grade.target == "routed":
                raise ValueError(
                    f"{found} the target of grade {number} is 'routed', which needs the class of "
                    f"each sample; expected another target, or {without}"
                )
        _check_soft_labels(found, curriculum, algorithm, without)


def _check_soft_labels(
    found: str, curriculum: Curriculum, algorithm: Algorithm, without: str
) -> None:
    if _teach(curriculum) and not algorithm.takes_soft_labels:
        raise ValueError(
            f"{found} {type(algorithm).__name__}, as it is set, needs the class of each sample; "
            "expected kd with another divergence than dkd, or dist, alone or under fitnet or at, "
            f"weighted by mean, entropy or aekd; or {without}"
        )


def _teach(curriculum: Curriculum) -> bool:
    """Whether any teacher is asked."""
    return any(grade.teachers for grade in curriculum.grades)


def check_batch(rows: int) -> None:
    """Check that a batch of ``rows`` has one for each rank.

    Raises:
        UserError: it has not.
    """
    if rows < size():
        raise UserError(
            f"a batch has {rows} samples; expected at least one for each of {size()} processes"
        )


@torch.no_grad()
def not_finite(
    faculty: Faculty, teachers: Sequence[int], batch: Batch, samples: Samples
) -> str | None:
    """Which of the ``teachers`` gives NaN or infinity for a batch, and for which sample of the
    split ``samples``; None: none does. Of several ranks, all find the same."""
    for k in teachers:
        wrong = ~(faculty.logits(k, batch.images, eager=True) < math.inf).all(1)
        everywhere = gather_rows(wrong.int(), len(batch.whole.labels)).bool()
        found = batch.whole.index[everywhere].tolist()
        if found:
            files = files_of(samples)
            one = files[found[0]] if files else f"training sample {found[0]}"
            return (
                f"teacher {k} ({faculty[k].name}) gives NaN or infinity for {len(found)} images of "
                f"the last batch, {one} among them"
            )
    return None
