"""Events of a run, as trackers hear of them."""

from __future__ import annotations

from edufast.experiments.events import PhaseEvent, TeacherEvent
from edufast.training.events import EpochEvent, StepEvent

_WHERE = {"method": "education", "seed": 0, "grade": 1, "epoch": 0}
TEACHER = TeacherEvent(
    teacher=2, model="m", classes=[0], accuracy=0.75, seconds=3.0, flops=7, samples=100
)
STEPS = [
    StepEvent(**_WHERE, step=20 * n, samples=320 * n, loss=2.0 / n, lr=0.5, images_per_second=9.0)
    for n in (1, 2)
]
EPOCH = EpochEvent(
    **_WHERE,
    samples=640,
    accuracy=0.5,
    loss=1.0,
    images_per_second=9.0,
    student_flops=10,
    teacher_flops=20,
)
PHASE = PhaseEvent(method="education", seed=0, phase="data", seconds=1.0)
ALL = [TEACHER, *STEPS, EPOCH, PHASE]
CONFIG = {"recipe": {"name": "r", "training": {"lr": 0.1}}, "seeds": [0]}
