"""The numbers of a sweep, by variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from edufast.experiments.events import Equal, ResultEvent, RunEvent, Split, TeacherEvent
from edufast.experiments.method import GRADED
from edufast.experiments.recipe import MethodName
from edufast.experiments.report.format import deviation
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.run_log import MethodEvent, RunLog, read_events
from edufast.experiments.sweep_config import SweepConfig
from edufast.utils.event_log import Event

T = TypeVar("T")
Runs = Mapping[str, Mapping[int, Path]]  # folders by variant and seed


@dataclass(frozen=True)
class Spread:
    """Values of several seeds, their mean and their sample standard deviation."""

    mean: float
    deviation: float
    values: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(fmean(values), deviation(values), values)


@dataclass(frozen=True)
class Means:
    """Over the seeds of a variant that have a result; see
    :class:`edufast.experiments.events.ResultEvent`.

    Attributes:
        relative_student_flops: to the first variant in a single grade that has a result, else to
            the first that has one.
    """

    accuracy: Spread
    best_accuracy: Spread
    slice_accuracy: list[float]
    slice_accuracy_masked: list[float]
    samples: float
    student_flops: float
    teacher_flops: float
    teacher_training_flops: float
    teacher_training_seconds: float
    training_seconds: float
    relative_student_flops: float


@dataclass(frozen=True)
class VariantSummary:
    """What became of a variant.

    Attributes:
        changes: of the recipe.
        seeds: that have a result.
        diverged: seeds whose loss was not finite.
        unfinished: the other seeds.
        means: None: no seed has a result.
    """

    name: str
    method: MethodName
    changes: dict[str, Any]
    seeds: list[int]
    diverged: list[int]
    unfinished: list[int]
    means: Means | None


@dataclass(frozen=True)
class SweepSummary:
    """What became of a sweep; ``seeds`` is the largest number of student seeds of a variant."""

    name: str
    split: Split
    equal: Equal
    seeds: int
    teacher_seeds: int
    data_seeds: int
    variants: list[VariantSummary]

    @property
    def finished(self) -> list[tuple[VariantSummary, Means]]:
        """The variants of which a seed has a result, and their means."""
        return [(variant, variant.means) for variant in self.variants if variant.means is not None]

    def to_dict(self) -> dict[str, Any]:
        """As in sweep.json: the means among what else is known of a variant."""
        content = asdict(self)
        for variant in content["variants"]:
            variant |= variant.pop("means") or {}
        return content


def merged_events(config: SweepConfig, runs: Runs, teachers: Sequence[Path]) -> list[Event]:
    """The event logs of all runs of a sweep as one, in which the variants are the methods.

    Args:
        config: of the sweep.
        runs: those that did not begin are skipped.
        teachers: event logs of the teachers; likewise.
    """
    logs = [
        (variant, read_events(path))
        for variant, folders in runs.items()
        for folder in folders.values()
        if (path := RunFolder(folder).metrics).exists()
    ]
    merged: list[Event] = []
    begun = [event for _, events in logs for event in events if isinstance(event, RunEvent)]
    if begun:
        about = replace(begun[0], name=f"{config.recipe.name}: sweep", equal=config.equal)
        # None where variants have their own.
        slices, grades = (_common([getattr(e, key) for e in begun]) for key in ("slices", "grades"))
        merged.append(replace(about, slices=slices, grades=grades, config=None))
    for number, path in enumerate(path for path in teachers if path.exists()):
        taught = [event for event in read_events(path) if isinstance(event, TeacherEvent)]
        merged += [replace(event, teacher=number) for event in taught[-1:]]
    for variant, events in logs:
        merged += [replace(e, method=variant) for e in events if isinstance(e, MethodEvent)]
    return merged


def _common(values: Sequence[T]) -> T | None:
    """What all ``values`` are; None: they differ."""
    return values[0] if all(value == values[0] for value in values) else None


def summarise(config: SweepConfig, runs: Runs, log: RunLog) -> SweepSummary:
    """Means and deviations by variant.

    Args:
        config: of the sweep.
        runs: all of them.
        log: of all of them together.
    """
    variants = {name: config.recipe.variants[name] for name in runs}
    methods: dict[str, MethodName] = {
        name: changes.get("method", "education") for name, changes in variants.items()
    }
    results = {name: log.methods[name].results for name in variants if name in log.methods}
    finished = [name for name in variants if results.get(name)]
    single = [name for name in finished if methods[name] not in GRADED]
    summaries = []
    for name, changes in variants.items():
        means = None
        if name in finished:
            means = _means(results[name], relative_to=results[(single or finished)[0]])
        seeds = [result.seed for result in results.get(name, [])]
        diverged = [s for s, run in runs[name].items() if RunFolder(run).diverged.exists()]
        summaries.append(
            VariantSummary(
                name=name,
                method=methods[name],
                changes={key: value for key, value in changes.items() if key != "method"},
                seeds=seeds,
                diverged=diverged,
                unfinished=sorted(set(runs[name]) - {*seeds, *diverged}),
                means=means,
            )
        )
    return SweepSummary(
        name=config.recipe.name,
        split="validation" if log.run is None else log.run.split,
        equal=config.equal,
        seeds=max(map(len, runs.values())),
        teacher_seeds=config.teacher_seeds,
        data_seeds=config.data_seeds,
        variants=summaries,
    )


def _means(results: Sequence[ResultEvent], relative_to: Sequence[ResultEvent]) -> Means:
    flops = fmean(result.student_flops for result in results)
    return Means(
        accuracy=Spread.of([result.accuracy for result in results]),
        best_accuracy=Spread.of([result.best_accuracy for result in results]),
        slice_accuracy=_by_slice([result.slice_accuracy for result in results]),
        slice_accuracy_masked=_by_slice([result.slice_accuracy_masked for result in results]),
        samples=fmean(result.samples for result in results),
        student_flops=flops,
        teacher_flops=fmean(result.teacher_flops for result in results),
        teacher_training_flops=fmean(result.teacher_training_flops for result in results),
        teacher_training_seconds=fmean(result.teacher_training_seconds for result in results),
        training_seconds=fmean(result.training_seconds for result in results),
        relative_student_flops=flops / fmean(result.student_flops for result in relative_to),
    )


def _by_slice(accuracies: Sequence[Sequence[float]]) -> list[float]:
    """Means over seeds."""
    return [fmean(of_slice) for of_slice in zip(*accuracies, strict=True)]
