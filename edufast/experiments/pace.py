"""How long a run takes on this machine: its arithmetic, at the speed of a few steps tried out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from edufast.data import Augment, Batch, Loader, Samples
from edufast.data.image_files import files_of, unreadable
from edufast.experiments.cost import Cost
from edufast.experiments.recipe import Recipe, TrainingSection
from edufast.models.tracing import to_faster_layout
from edufast.models.zoo import create_model
from edufast.training.settings import autocast
from edufast.utils.flops import TRAINING_FACTOR, forward_flops

_SECONDS = 0.4  # of steps that are timed, after two to warm up
_LOADED, _LOADING_SECONDS = 32, 1.0  # images in a batch, and how long they are loaded
_LARGEST_STEP = 50e9  # FLOPs: about a second of a slow CPU


@dataclass(frozen=True)
class Duration:
    """Seconds that a run takes, about: small images and short grades are up to a third slower.

    Attributes:
        teaching: training each of the teachers.
        learning: training the student, with its teachers' forward passes.
    """

    teaching: tuple[float, ...]
    learning: float

    @property
    def total(self) -> float:
        """Seconds for teachers and student together."""
        return sum(self.teaching) + self.learning


class Speeds(NamedTuple):
    """FLOP/s of a network: of training steps, and of forward passes without gradients."""

    training: float
    forward: float


class Pace:
    """Speeds of this machine, each measured when it is first asked for.

    Args:
        device: where the run will be.
        training: its settings.
        clock: in seconds; time.process_time counts those of a processor in which nobody else ran.
    """

    def __init__(
        self,
        device: str,
        training: TrainingSection,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._training, self._clock = device, training, clock
        self._speeds: dict[tuple[str, int], Speeds] = {}

    def speeds(self, model: str, image_size: int) -> Speeds:
        """Of the network ``model``."""
        if (model, image_size) not in self._speeds:
            with torch.random.fork_rng(devices=[]):
                network = create_model(model, 2)
                self._speeds[model, image_size] = _speeds(
                    network, image_size, self._training, self._device, self._clock
                )
        return self._speeds[model, image_size]

    def loading(self, samples: Samples, image_size: int, augment: Augment) -> float:
        """Seconds that the processors take to load and augment an image, all of them together.

        While a network trains on the same processors, that comes on top. Files that cannot be read
        are left out here.
        """
        samples = _some(samples)
        if not len(samples):
            return 0.0
        loader = Loader(
            samples,
            batch_size=min(_LOADED, len(samples)),
            image_size=image_size,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            augment=augment,
        )
        images, started, spent = 0, time.perf_counter(), time.process_time()
        for batch in _endless(loader):
            images += len(batch.labels)
            if time.perf_counter() - started > _LOADING_SECONDS:
                break
        return (time.process_time() - spent) / images / torch.get_num_threads()


def _some(samples: Samples) -> Samples:
    """A few of ``samples``, evenly spaced, that can be read."""
    count = min(2 * _LOADED, len(samples))
    some = samples.subset(np.linspace(0, len(samples) - 1, count).astype(np.int64))
    files = files_of(some)
    if not files:
        return some
    bad = set(unreadable(files))
    return some.subset(np.array([i for i, path in enumerate(files) if path not in bad], np.int64))


def _endless(loader: Loader) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def expected_duration(
    recipe: Recipe, cost: Cost, image_size: int, pace: Pace, loading: float = 0.0
) -> Duration:
    """How long ``edufast train`` takes with ``recipe``, baselines and validation aside.

    Args:
        recipe: the run.
        cost: its own.
        image_size: of its data.
        pace: where it runs.
        loading: seconds for each image that is trained on.
    """
    student = pace.speeds(recipe.student.model, image_size)
    learning = cost.student_flops / student.training + cost.samples * loading
    teaching = []
    for k, section in enumerate(recipe.teachers):
        teacher = pace.speeds(section.model, section.image_size or image_size)
        computing = cost.teaching_flops[k] / teacher.training
        teaching.append(computing + cost.teaching_samples[k] * loading)
        learning += cost.forward_flops[k] / teacher.forward
    return Duration(tuple(teaching), learning)


def _speeds(
    model: nn.Module,
    image_size: int,
    training: TrainingSection,
    device: str,
    clock: Callable[[], float],
) -> Speeds:
    shape = 3, image_size, image_size
    model = model.to(device)
    faster = to_faster_layout(model, shape)
    flops = forward_flops(model, shape)
    fitting = int(_LARGEST_STEP / (TRAINING_FACTOR * flops))
    count = max(2, min(training.batch_size, fitting))
    images = torch.zeros(count, *shape, device=device)
    if faster:
        images = images.to(memory_format=torch.channels_last)

    def forward() -> torch.Tensor:
        with autocast(images.device, training.precision):
            logits: torch.Tensor = model(images)
        return logits

    def train() -> None:
        forward().float().sum().backward()

    def evaluate() -> None:
        with torch.no_grad():
            forward()

    trained = TRAINING_FACTOR * flops * count / _seconds(train, device, clock)
    model.eval()
    return Speeds(trained, flops * count / _seconds(evaluate, device, clock))


def _seconds(step: Callable[[], None], device: str, clock: Callable[[], float]) -> float:
    """Of one call."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    for _ in range(2):
        step()
    wait()
    calls, started = 0, clock()
    while calls < 3 or clock() - started < _SECONDS:
        step()
        wait()
        calls += 1
    return (clock() - started) / calls
