"""Decides what a recipe leaves open, from the data, this machine and the minutes given.

The measurement behind each rule is noted next to it; docs/own_pictures.md describes the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from edufast.data import Augment, Samples
from edufast.data.image_size import sizes_to_decide
from edufast.data.survey import Overview
from edufast.experiments.pace import Speeds
from edufast.experiments.schema import Section
from edufast.models.zoo import create_model
from edufast.utils.flops import TRAINING_FACTOR, forward_flops

_SHARE = 0.8  # of the minutes; the rest goes to measuring, validation, exports and the report
_LEAST_SHARE = 0.1  # for training, if making copies takes longer than all the minutes
_EPOCH_SECONDS = 10.0  # between validations; after the first there is a usable model
_BATCH = 64
# A network trained on CIFAR-100 before reached 48 % on 101 x 20 photographs after 5 passes, 51 %
# after 11 and after 14 (benchmarks/evidence/pretrained.yaml).
_ENOUGH_PRETRAINED = 20
# Cheapest first. On 12 x 40 photographs resnet20 ended at 53.2 %, resnet8x4, with 16 times as many
# weights as resnet8, at 53.4 %, resnet8 itself at 52.7 %.
_STUDENTS = ("resnet8", "resnet20")
# Passes over the training images. On 12 x 40 photographs resnet8 had 51.1 % after 125 and 51.7 %
# after 375; on 12 x 200, in equal time, it reached 63.3 % in 20 passes, resnet20 57.7 % in 8.
_ENOUGH, _MOST = 125, 375
# Image size of each grade, as a share of the whole, and its share of the time. At equal time,
# growing images gained 1.6 points (12 x 40) and 7.8 (12 x 200); with trained weights, at equal
# FLOPs, 1.4 (benchmarks/evidence/pretrained.yaml). They lost 32 points where a letter is a small
# part of a picture: curriculum.image_sizes=[] keeps images whole.
_GROWTH = ((1 / 2, 0.15), (3 / 4, 0.25), (1, 0.6))
_SMALLEST_GROWING = 24  # pixels of whole images, so that half as many still show something
# Pictures whose shorter side has more than twice as many pixels are read from copies of this size.
# Decoding a photograph of 12 megapixels took 54 ms of a processor, learning from it 1 ms.
_COPIES = 256
_LOADING_COPIES = 1e-3  # seconds, roughly
_PROBE = 64  # pixels at most for measuring speeds, which hardly depend on it
# 12 x 200 photographs: 66.8 % with 0.03, 71.1 % with 0.1, 70.2 % with 0.3.
_LEARNING_RATE = 0.1, "0.1", "the best of three rates tried on photographs"
_ALGORITHM = (
    {"name": "kd", "temperature": 2.0, "alpha": 0.3},
    "kd, temperature 2",
    "the setting used in docs/evidence.md",
)
_COMPILING = 60  # minutes: compiling a grade's step takes 20 s, and gains a twentieth
_EVEN = 1.5  # up to this ratio of the largest class to the smallest, no balancing is needed


class Decision(Section):
    """A value that the recipe left open, or that the user set.

    Attributes:
        key: of the recipe, with dots.
        value: of JSON types.
        said: the value in words.
        reason: why this value.
    """

    key: str
    value: Any
    said: str
    reason: str


class Machine(Protocol):
    """What is measured, see :class:`edufast.experiments.pace.Pace`."""

    def speeds(self, model: str, image_size: int) -> Speeds: ...

    def loading(self, samples: Samples, image_size: int, augment: Augment) -> float: ...


def decide(
    found: Overview,
    machine: Machine,
    minutes: float,
    given: Mapping[str, Any],
    learned_at: int | None = None,
) -> list[Decision]:
    """Decide what ``given`` leaves open: image size, student, teachers, grades and their steps, and
    how they are trained.

    Args:
        found: the data.
        machine: measures how fast it is.
        minutes: that the run may take.
        given: what is set, by key with dots; sections and lists are also there as a whole.
        learned_at: height and width of the images that the student's weights were trained on, if it
            starts from weights.

    Returns:
        A decision for each key, including those that are given.
    """
    choices = _Choices(given)
    batch = choices.make("training.batch_size", *_batch_size(found))
    augment = choices.make("training.augment", *_augment(found))
    reduce_to = choices.make("data.reduce_to", *_reduce_to(found))
    costs = _Costs(found, machine, Augment(**augment), reduces=reduce_to is not None)
    seconds = max(60 * minutes * _SHARE - costs.copying, 60 * minutes * _LEAST_SHARE)
    cheapest = given.get("student.model", _STUDENTS[0])
    sized = _image_size(found, costs, cheapest, seconds, learned_at)
    size = choices.make("data.image_size", *sized)
    student = choices.make("student.model", *_student(found, costs, size, seconds))
    teachers = choices.make("teachers", *_teachers())
    if teachers:
        choices.make("algorithm", *_ALGORITHM)
    if not (given.get("curriculum.preset") or given.get("curriculum.epochs")):
        fixed = given.get("curriculum.image_sizes") == []
        grows = student in _STUDENTS and size >= _SMALLEST_GROWING and not fixed
        sizes = [(round(size * r), share) for r, share in _GROWTH] if grows else [(size, 1.0)]
        made = _grades(found, costs, student, teachers, sizes, batch, seconds)
        choices.make("curriculum.grades", *made)
    choices.make("training.lr", *_LEARNING_RATE)
    choices.make("training.balance", *_balance(found))
    choices.make("training.compile", *_compile(minutes))
    return choices.made


class _Choices:
    """Decisions as they are made. Given values take precedence over the rules."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.made: list[Decision] = []

    def make(self, key: str, value: Any, said: str, reason: str) -> Any:
        """Record the decision for ``key``; returns its value, the given one if there is one."""
        own = self._given.get(key)
        if isinstance(own, Mapping) and isinstance(value, Mapping):
            value, reason = {**value, **own}, f"{reason}; {', '.join(own)} set by you"
        elif own is not None:
            value, said, reason = own, str(own), "set by you"
        self.made.append(Decision(key=key, value=value, said=said, reason=reason))
        return value


class _Costs:
    """Seconds for one image.

    Attributes:
        copying: seconds for making small copies of all images.
    """

    def __init__(
        self, found: Overview, machine: Machine, augment: Augment, *, reduces: bool
    ) -> None:
        self._classes, self._machine = found.classes, machine
        self._probe = min(sizes_to_decide(found.side)[-1], _PROBE)
        files = found.files  # loading arrays takes next to no time
        self._loading = machine.loading(found.train, self._probe, augment) if files else 0.0
        self.copying = 0.0
        if reduces:
            self.copying = self._loading * len(found.train)
            self._loading = min(self._loading, _LOADING_COPIES)

    def training(self, model: str, image_size: float) -> float:
        """To load it and to train ``model`` on it."""
        speed = self._machine.speeds(model, self._probe).training
        return TRAINING_FACTOR * self._flops(model, image_size) / speed + self._loading

    def forward(self, model: str, image_size: float) -> float:
        """For a forward pass of ``model``."""
        speed = self._machine.speeds(model, self._probe).forward
        return self._flops(model, image_size) / speed

    def _flops(self, model: str, image_size: float) -> float:
        """Of a forward pass: in proportion to the area."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network = create_model(model, self._classes)
            flops = forward_flops(network, (3, self._probe, self._probe))
        return flops * (image_size / self._probe) ** 2


def _batch_size(found: Overview) -> tuple[int, str, str]:
    batch = min(_BATCH, len(found.train))
    return batch, str(batch), "small batches give more steps, even with few pictures"


def _augment(found: Overview) -> tuple[dict[str, Any], str, str]:
    if not found.files:
        shift = max(1, (found.side or 32) // 8)
        value = {"pad": shift, "flip": True}
        return value, f"shifts of {shift} pixels, mirroring", "arrays are never cropped at random"
    # 12 x 40 photographs: 51.1 % with crops, 48.5 % with shifts.
    crops = {"random_resized_crop": [0.35, 1.0], "flip": True}
    return crops, "random crops, mirroring", "crops help; set flip=false for pictures of text"


def _reduce_to(found: Overview) -> tuple[int | None, str, str]:
    if not found.files or (found.side or 0) <= 2 * _COPIES:
        return None, "no copies", "the pictures are small enough to decode each time"
    said = f"copies of {_COPIES} pixels"
    return _COPIES, said, f"decoding {found.side} pixels takes longer than training on them"


def _image_size(
    found: Overview, costs: _Costs, model: str, seconds: float, learned_at: int | None
) -> tuple[int, str, str]:
    enough, why = _ENOUGH, f"the median shorter side of the pictures is {found.side or 'not known'}"
    if learned_at is not None:
        enough = _ENOUGH_PRETRAINED
        why += f", and the weights were trained on images of {learned_at}"
    fitting = sizes_to_decide(found.side, learned_at)
    for size in reversed(fitting):
        passes = seconds / costs.training(model, size) / len(found.train)
        if passes >= enough:
            break
    if size != fitting[-1]:
        why += f"; with larger images, fewer than {enough} passes over the pictures fit"
    return size, f"{size} x {size}", why


def _student(found: Overview, costs: _Costs, size: int, seconds: float) -> tuple[str, str, str]:
    for model in reversed(_STUDENTS):
        passes = seconds / costs.training(model, size) / len(found.train)
        if passes >= _ENOUGH:
            return model, model, f"the largest with time for {_ENOUGH} passes over the pictures"
    return model, model, f"the smallest; there is time for {passes:.0f} passes at full size"


def _teachers() -> tuple[list[Any], str, str]:
    # 12 x 200 photographs: 71.1 % alone in 35 s, 61.2 % with a teacher in 127 s. 12 x 40: 52.7 % in
    # 35 s, and 50.4 % in 76 s.
    why = "in so short a time a student learns more without; slices of classes do not help either"
    return [], "none", why


def _compile(minutes: float) -> tuple[bool | str, str, str]:
    if minutes < _COMPILING:
        return False, "no", "in so short a run, compiling takes longer than it saves"
    return "auto", "where it pays", "decided for each grade by its length"


def _balance(found: Overview) -> tuple[float, str, str]:
    ratio = found.imbalance
    if ratio < _EVEN:
        return 0.0, "no", f"the largest class has {ratio:.1f} times the pictures of the smallest"
    said = "show rare classes more often"
    return 0.5, said, f"the largest class has {ratio:.0f} times the pictures of the smallest"


def _grades(
    found: Overview,
    costs: _Costs,
    student: str,
    teachers: list[dict[str, Any]],
    sizes: list[tuple[int, float]],
    batch: int,
    seconds: float,
) -> tuple[list[dict[str, Any]], str, str]:
    """Grades with all classes and the whole student, one for each image size, each with its share
    of the time."""
    size = sizes[-1][0]
    full = [k for k, teacher in enumerate(teachers) if teacher.get("classes", "all") == "all"]
    taught_by = full[-1:] or list(range(len(teachers)))
    forward = sum(costs.forward(teachers[k]["model"], size) for k in taught_by)
    per_image = [costs.training(student, side) + forward for side, _ in sizes]
    fitting = sum(share * seconds / cost for (_, share), cost in zip(sizes, per_image, strict=True))
    scale = min(1.0, _MOST * len(found.train) / fitting)
    grades: list[dict[str, Any]] = []
    steps = 0
    for (side, share), cost in zip(sizes, per_image, strict=True):
        span = scale * share * seconds
        epochs = max(1, round(span / _EPOCH_SECONDS))
        length = max(1, round(span / cost / batch / epochs))
        steps += epochs * length
        grades.append(
            {
                "epochs": epochs,
                "samples": length * batch,
                "fragments": 1,
                "image_size": None if side == size else side,
                "teachers": taught_by,
                "target": "full" if full else None,
            }
        )
    grades[0]["classes"] = f"0-{found.classes - 1}"
    passes = steps * batch / len(found.train)
    why = f"{steps:,} steps, {passes:.0f} passes over the pictures: "
    why += "more did not help" if scale < 1 else "as many as there is time for"
    if len(sizes) == 1:
        return grades, "1", f"{why}; all pictures at full size"
    pixels = ", ".join(str(side) for side, _ in sizes)
    why += "; on photographs, growing images help, growing depth or classes does not"
    return grades, f"{len(grades)}: {pixels} pixels", why
