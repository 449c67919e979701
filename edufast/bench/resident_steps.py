"""Training steps on images that are on the device already: eager, replayed, compiled as well.

``python -m edufast.bench.resident_steps FOLDER`` adds to FOLDER/steps.jsonl what is not in it yet;
with ``--dry``, tiny networks on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edufast.bench.lines import Lines, command
from edufast.bench.train.setting import MEAN, STD
from edufast.distill import KD
from edufast.distill.teacher_outputs import TeacherOutputs
from edufast.models.zoo import create_model
from edufast.ops import augment
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.teachers.teacher import Teacher
from edufast.training.settings import Training
from edufast.training.step import TrainStep
from edufast.utils.choices import Compile

FILE = "steps.jsonl"
CLASSES = 100


@dataclass(frozen=True)
class Scale:
    """How large the problem is.

    Attributes:
        device: where everything is.
        samples: on the device, 32 x 32 pixels.
        batch_sizes: images of a step.
        teacher, student: names of models.
        teachers: number of them, which all know all classes.
        steps: for each measurement.
        profiled: steps of the profile.
        kinds: of steps, by name: what ``Training.compile`` is for them.
    """

    device: str
    samples: int
    batch_sizes: tuple[int, ...]
    teacher: str
    student: str
    teachers: int
    steps: int
    profiled: int
    kinds: dict[str, Compile]


KINDS: dict[str, Compile] = {"eager": False, "replayed": "auto"}
COMPILED = KINDS | {"compiled, replayed": True}  # what takes long to compile comes last
GPU = Scale("cuda", 50_000, (64, 256, 1024), "resnet56", "resnet20", 1, 100, 5, COMPILED)
DRY = Scale("cpu", 64, (8,), "resnet8", "resnet8", 2, 2, 1, KINDS)


class Steps:
    """A student that learns from teachers: ``steps(i)`` is the step on batch i."""

    def __init__(self, scale: Scale, batch_size: int, compile: Compile) -> None:
        self._eager = compile is False
        torch.manual_seed(0)
        device = torch.device(scale.device)
        size = (scale.samples, 32, 32, 3)
        self._images = torch.randint(256, size, dtype=torch.uint8, device=device)
        self._views = torch.randint(162, (batch_size,), device=device)
        self._labels = torch.randint(CLASSES, (scale.samples,), device=device)
        order = torch.randperm(scale.samples, device=device)
        self._batches = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
        models = [create_model(scale.teacher, CLASSES) for _ in range(scale.teachers)]
        teachers = [Teacher(model.eval(), range(CLASSES)) for model in models]
        self._faculty = Faculty(teachers, device, dtype=torch.bfloat16)
        student = Student(create_model(scale.student, CLASSES), 1, input_size=(3, 32, 32))
        student.grow(fragments=1, classes=CLASSES)
        student.to(device).to(memory_format=torch.channels_last).train()
        training = Training(batch_size=batch_size, precision="bf16", compile=compile)
        optimizer = training.create_optimizer(student.active_parameters())
        self._step = TrainStep(
            student, KD(), optimizer, training, exit_weight=0.0, steps=scale.steps
        )

    def __call__(self, i: int) -> Tensor:
        index = self._batches[i % len(self._batches)]
        images = augment(self._images, index, self._views, pad=4, flip=True, mean=MEAN, std=STD)
        logits = [
            self._faculty.logits(k, images, eager=self._eager) for k in range(len(self._faculty))
        ]
        rows = [slice(0, len(index))] * len(logits)
        outputs = TeacherOutputs(logits, None, "mean", rows, [[] for _ in logits], index)
        return self._step(images, self._labels[index], outputs)


def measure(scale: Scale, batch_size: int, compile: Compile) -> dict[str, Any]:
    """Images per second, and what the device did."""
    run = Steps(scale, batch_size, compile)

    def several(count: int) -> float:
        _synchronize(scale.device)
        begin = time.perf_counter()
        for i in range(count):
            run(i)
        _synchronize(scale.device)
        return (time.perf_counter() - begin) / count

    several(5)
    seconds = several(scale.steps)
    kernels, busy = _profile(lambda: several(scale.profiled), scale)
    return {
        "images/s": batch_size / seconds,
        "us": seconds * 1e6,
        "kernels": kernels / scale.profiled,
        "busy": busy / scale.profiled / seconds,
    }


def _profile(run: Callable[[], object], scale: Scale) -> tuple[int, float]:
    """Number of kernels and copies, and the seconds they took."""
    if scale.device != "cuda":
        run()
        return 0, 0.0
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
    on_device = [e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len(on_device), sum(e.time_range.elapsed_us() for e in on_device) / 1e6


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def run(lines: Lines, scale: Scale) -> None:
    """Measure what ``lines`` has not yet."""
    torch.backends.cudnn.benchmark = True
    for name, compile in scale.kinds.items():
        for batch_size in scale.batch_sizes:
            lines.measure(
                f"step B={batch_size} {name}",
                lambda: measure(scale, batch_size, compile),  # noqa: B023
            )


def table(lines: Lines) -> str:
    """Images per second, and as multiples of the eager step."""
    rows = {r["name"]: r for r in lines}
    text = []
    for name, r in rows.items():
        eager = rows.get(" ".join(name.split()[:2]) + " eager", r)
        text.append(
            f"{name:28} {r['images/s']:10.0f} images/s {r['images/s'] / eager['images/s']:6.2f} x "
            f"eager, {r['kernels']:5.0f} kernels, busy {r['busy']:.0%}"
        )
    return "\n".join(text)


if __name__ == "__main__":
    command("Training steps on resident images.", FILE, run, (GPU, DRY), table)
