"""The summary of a sweep: numbers by variant, a table of them and two figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from matplotlib.figure import Figure

from edufast.experiments.events import (
    DIVERGED,
    MethodEvent,
    ResultEvent,
    RunEvent,
    RunLog,
    TeacherEvent,
    read_events,
)
from edufast.experiments.report.format import EQUAL, SPLITS, deviation, si, spread
from edufast.experiments.report.format import seconds as duration
from edufast.experiments.report.style import Theme, figure, grid, label, legend, title
from edufast.utils.event_log import Event

T = TypeVar("T")

# Of a result, averaged over seeds.
_COSTS = (
    "samples",
    "student_flops",
    "teacher_flops",
    "teacher_training_flops",
    "teacher_training_seconds",
    "training_seconds",
)
HEADS = (
    "variant",
    "seeds",
    "last epoch",
    "best epoch",
    "student FLOPs",
    "teachers' FLOPs: answers + training",
    "training time",
)


def merged_events(
    config: Mapping[str, Any], runs: Mapping[str, Mapping[int, Path]], teachers: Sequence[Path]
) -> list[Event]:
    """The event logs of all runs of a sweep as one, in which the variants are the methods.

    Args:
        config: of the sweep.
        runs: folders by variant and seed; those that did not begin are skipped.
        teachers: event logs of the teachers; likewise.
    """
    logs = [
        (variant, read_events(path))
        for variant, folders in runs.items()
        for folder in folders.values()
        if (path := folder / "metrics.jsonl").exists()
    ]
    merged: list[Event] = []
    begun = [event for _, events in logs for event in events if isinstance(event, RunEvent)]
    if begun:
        merged.append(
            replace(
                begun[0],
                name=f"{config['recipe']['name']}: sweep",
                equal=config["equal"],
                # None where variants have their own.
                slices=_common([run.slices for run in begun]),
                grades=_common([run.grades for run in begun]),
            )
        )
    for number, path in enumerate(path for path in teachers if path.exists()):
        taught = [event for event in read_events(path) if isinstance(event, TeacherEvent)]
        merged += [replace(event, teacher=number) for event in taught[-1:]]
    for variant, events in logs:
        merged += [replace(e, method=variant) for e in events if isinstance(e, MethodEvent)]
    return merged


def _common(values: Sequence[T]) -> T | None:
    return values[0] if all(value == values[0] for value in values) else None


def summarise(
    config: Mapping[str, Any], runs: Mapping[str, Mapping[int, Path]], log: RunLog
) -> dict[str, Any]:
    """Means and deviations by variant, as written to sweep.json.

    FLOPs are relative to the first variant in a single grade that has a result, else to the first.
    ``training_seconds`` leave validation and compilation out.
    """
    variants: list[dict[str, Any]] = []
    for name, changes in config["recipe"]["variants"].items():
        results = log.methods[name].results if name in log.methods else []
        entry: dict[str, Any] = {
            "name": name,
            "method": changes.get("method", "education"),
            "changes": {key: value for key, value in changes.items() if key != "method"},
            "seeds": [result.seed for result in results],
            "diverged": [s for s, run in runs[name].items() if (run / DIVERGED).exists()],
        }
        ended = {*entry["seeds"], *entry["diverged"]}
        entry["unfinished"] = sorted(set(runs[name]) - ended)
        if results:
            entry |= _means(results)
        variants.append(entry)
    finished = [entry for entry in variants if entry["seeds"]]
    single = [e for e in finished if e["method"] not in ("grades", "education")]
    for entry in finished:
        whole = (single or finished)[0]["student_flops"]
        entry["relative_student_flops"] = entry["student_flops"] / whole
    return {
        "name": config["recipe"]["name"],
        "split": "validation" if log.run is None else log.run.split,
        **{key: config[key] for key in ("equal", "seeds", "teacher_seeds", "data_seeds")},
        "variants": variants,
    }


def _means(results: Sequence[ResultEvent]) -> dict[str, Any]:
    """Over seeds; of accuracies with their standard deviation and their values."""
    means: dict[str, Any] = {}
    for key in ("accuracy", "best_accuracy"):
        values = [getattr(result, key) for result in results]
        means[key] = {"mean": fmean(values), "deviation": deviation(values), "values": values}
    for key in ("slice_accuracy", "slice_accuracy_masked"):
        slices = zip(*(getattr(result, key) for result in results), strict=True)
        means[key] = [fmean(values) for values in slices]
    return means | {key: fmean(getattr(result, key) for result in results) for key in _COSTS}


def rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """The table of a summary, under :data:`HEADS`."""
    return [
        [
            entry["name"],
            str(len(entry["seeds"])),
            spread(entry["accuracy"]["values"]),
            spread(entry["best_accuracy"]["values"]),
            f"{si(entry['student_flops'], '')} ({entry['relative_student_flops']:.2f} ×)",
            " + ".join(si(entry[key], "") for key in ("teacher_flops", "teacher_training_flops")),
            duration(entry["training_seconds"]),
        ]
        for entry in summary["variants"]
        if entry["seeds"]
    ]


def note(summary: Mapping[str, Any]) -> str:
    """What the numbers of a summary are, in words."""
    text = (
        f"Accuracy {SPLITS[summary['split']]}: mean ± one sample standard deviation over seeds "
        f"({_count(summary['seeds'], 'student seed')}, {_count(summary['teacher_seeds'], 'set')} "
        f"of teachers, {_count(summary['data_seeds'], 'draw')} of the data). The best epoch is "
        "chosen on the same images: read it as optimistic. Baselines had equal "
        f"{EQUAL[summary['equal']]}. Teachers are shared between variants and were trained once."
    )
    for state, means in (
        ("diverged", "Diverged, with the number of seeds, which are not among the means"),
        ("unfinished", "Unfinished, with the number of seeds missing"),
    ):
        cases = [f"{e['name']} ({len(e[state])})" for e in summary["variants"] if e[state]]
        if cases:
            text += f" {means}: {', '.join(cases)}."
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def markdown(summary: Mapping[str, Any]) -> str:
    """The table and what it shows."""
    lines = [HEADS, ["---"] * len(HEADS), *rows(summary)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return f"# {summary['name']}: sweep\n\n{note(summary)}\n\n{table}\n"


def to_json(summary: Mapping[str, Any]) -> str:
    return json.dumps(summary, indent=2, ensure_ascii=False) + "\n"


def draw(summary: Mapping[str, Any], theme: Theme) -> Figure:
    """Accuracy of every variant, last and best epoch, with deviations."""
    entries = [entry for entry in summary["variants"] if entry["seeds"]]
    result, (axis,) = figure(theme, 1.4 + 0.42 * len(entries))
    for key, text, offset, marker, colour in (
        ("accuracy", "last epoch", -0.13, "o", theme.palette[0]),
        ("best_accuracy", "best epoch", 0.13, "D", theme.palette[1]),
    ):
        axis.errorbar(
            [entry[key]["mean"] for entry in entries],
            [row + offset for row in range(len(entries))],
            xerr=[entry[key]["deviation"] for entry in entries],
            color=colour,
            marker=marker,
            markersize=7,
            capsize=3,
            linestyle="none",
            label=text,
        )
    title(result, f"{summary['name']}: accuracy by variant", theme)
    label(axis, theme, f"accuracy {SPLITS[summary['split']]}")
    axis.set_yticks(range(len(entries)), [entry["name"] for entry in entries])
    axis.tick_params(axis="y", labelcolor=theme.ink)
    axis.invert_yaxis()
    axis.margins(x=0.08, y=0.08)
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.4g}%")
    grid(axis, theme, "both")
    legend(result, theme)
    return result
