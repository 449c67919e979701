"""The numbers of events that are drawn as curves."""

from __future__ import annotations

from typing import NamedTuple

from edufast.experiments.events import ResultEvent, TeacherEvent
from edufast.training.events import EpochEvent, StepEvent
from edufast.utils.event_log import Event

_FIELDS: dict[type[Event], tuple[str, ...]] = {
    StepEvent: ("loss", "lr", "images_per_second"),
    EpochEvent: ("grade", "accuracy", "student_flops", "teacher_flops"),
    ResultEvent: ("best_accuracy", "training_seconds"),
    TeacherEvent: ("accuracy", "seconds"),
}


class Point(NamedTuple):
    """Values of curves at one place.

    Attributes:
        samples: that the network has been trained on, the horizontal axis.
        values: by name, such as "education-0/loss": method, seed, and field of the event.
    """

    samples: int
    values: dict[str, float]


def point(event: Event) -> Point | None:
    """What ``event`` adds to curves; None: nothing."""
    fields = _FIELDS.get(type(event))
    if fields is None:
        return None
    content = event.to_dict()
    whose = "{method}-{seed}" if "method" in content else "teacher-{teacher}"
    whose = whose.format(**content)
    return Point(content["samples"], {f"{whose}/{name}": content[name] for name in fields})
