"""How long a run takes on this machine: its arithmetic, at the speed of a few steps tried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from edufast.experiments.cost import Cost
from edufast.experiments.recipe import Recipe, TrainingSection
from edufast.models.zoo import create_model
from edufast.training.settings import autocast
from edufast.utils.flops import TRAINING_FACTOR, forward_flops

_SECONDS = 0.4  # of steps that are timed, after two to warm up
_LARGEST_STEP = 50e9  # FLOPs: about a second of a slow CPU


@dataclass(frozen=True)
class Duration:
    """Seconds that a run takes, about: small images and short grades are up to a third slower.

    Attributes:
        teaching: training the teachers.
        learning: training the student, with its teachers' answers.
    """

    teaching: float
    learning: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.teaching + self.learning


def expected_duration(recipe: Recipe, cost: Cost, image_size: int, device: str) -> Duration:
    """How long ``edufast train`` takes with ``recipe``, baselines and validation aside.

    Args:
        recipe: the run.
        cost: its own.
        image_size: of its data.
        device: where it runs.
    """
    speeds: dict[tuple[str, int], tuple[float, float]] = {}

    def speed(name: str, size: int) -> tuple[float, float]:
        if (name, size) not in speeds:
            speeds[name, size] = _speeds(create_model(name, 2), size, recipe.training, device)
        return speeds[name, size]

    teaching = 0.0
    with torch.random.fork_rng(devices=[]):
        train, _ = speed(recipe.student.model, image_size)
        learning = cost.student_flops / train
        for k, section in enumerate(recipe.teachers):
            train, answer = speed(section.model, section.image_size or image_size)
            teaching += cost.teaching_flops[k] / train
            learning += cost.answering_flops[k] / answer
    return Duration(teaching, learning)


def _speeds(
    model: nn.Module, image_size: int, training: TrainingSection, device: str
) -> tuple[float, float]:
    """FLOP/s of training steps and of forward passes."""
    model = model.to(device).to(memory_format=torch.channels_last)
    shape = 3, image_size, image_size
    flops = forward_flops(model, shape)
    fitting = int(_LARGEST_STEP / (TRAINING_FACTOR * flops))
    count = max(2, min(training.batch_size, fitting))
    images = torch.zeros(count, *shape, device=device).to(memory_format=torch.channels_last)

    def forward() -> torch.Tensor:
        with autocast(images.device, training.precision):
            logits: torch.Tensor = model(images)
        return logits

    def train() -> None:
        forward().float().sum().backward()

    def answer() -> None:
        with torch.no_grad():
            forward()

    trained = TRAINING_FACTOR * flops * count / _seconds(train, device)
    model.eval()
    return trained, flops * count / _seconds(answer, device)


def _seconds(step: Callable[[], None], device: str) -> float:
    """Of one call."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    for _ in range(2):
        step()
    wait()
    calls, started = 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - started < _SECONDS:
        step()
        wait()
        calls += 1
    return (time.perf_counter() - started) / calls
