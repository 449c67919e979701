"""The summary of a sweep as a table, as JSON and as a figure."""

from __future__ import annotations

import json

from matplotlib.figure import Figure

from edufast.experiments.report.format import EQUAL, SPLITS, si, spread
from edufast.experiments.report.format import seconds as duration
from edufast.experiments.report.style import Theme, figure, grid, label, legend, title
from edufast.experiments.report.summary import SweepSummary

HEADS = (
    "variant",
    "seeds",
    "last epoch",
    "best epoch",
    "student FLOPs",
    "teachers' FLOPs: forward + training",
    "training time",
)


def rows(summary: SweepSummary) -> list[list[str]]:
    """The table of a summary, under :data:`HEADS`."""
    return [
        [
            variant.name,
            str(len(variant.seeds)),
            spread(means.accuracy.values),
            spread(means.best_accuracy.values),
            f"{si(means.student_flops, '')} ({means.relative_student_flops:.2f} ×)",
            f"{si(means.teacher_flops, '')} + {si(means.teacher_training_flops, '')}",
            duration(means.training_seconds),
        ]
        for variant, means in summary.finished
    ]


def note(summary: SweepSummary) -> str:
    """What the numbers of a summary are, in words."""
    text = (
        f"Accuracy {SPLITS[summary.split]}: mean ± one sample standard deviation over seeds "
        f"({_count(summary.seeds, 'student seed')}, {_count(summary.teacher_seeds, 'set')} "
        f"of teachers, {_count(summary.data_seeds, 'draw')} of the data). The best epoch is "
        "chosen on the same images, so it is optimistic. Baselines were given equal "
        f"{EQUAL[summary.equal]}. Teachers are shared between variants and were trained once."
    )
    diverged = {variant.name: len(variant.diverged) for variant in summary.variants}
    unfinished = {variant.name: len(variant.unfinished) for variant in summary.variants}
    for meaning, counts in (
        ("Diverged (number of seeds; the means leave them out)", diverged),
        ("Unfinished (number of missing seeds)", unfinished),
    ):
        cases = [f"{name} ({count})" for name, count in counts.items() if count]
        if cases:
            text += f" {meaning}: {', '.join(cases)}."
    return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def markdown(summary: SweepSummary) -> str:
    """The table and what it shows."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows(summary)]
    lines = [HEADS, ["---"] * len(HEADS), *cells]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# {summary.name}: sweep\n\n{note(summary)}\n\n{table}\n"


def to_json(summary: SweepSummary) -> str:
    return json.dumps(summary.to_dict(), indent=2, ensure_ascii=False) + "\n"


def draw(summary: SweepSummary, theme: Theme) -> Figure:
    """Accuracy of every variant, last and best epoch, with deviations."""
    means = [means for _, means in summary.finished]
    result, (axis,) = figure(theme, 1.4 + 0.42 * len(means))
    for spreads, text, offset, marker, colour in (
        ([m.accuracy for m in means], "last epoch", -0.13, "o", theme.palette[0]),
        ([m.best_accuracy for m in means], "best epoch", 0.13, "D", theme.palette[1]),
    ):
        axis.errorbar(
            [spread.mean for spread in spreads],
            [row + offset for row in range(len(spreads))],
            xerr=[spread.deviation for spread in spreads],
            color=colour,
            marker=marker,
            markersize=7,
            capsize=3,
            linestyle="none",
            label=text,
        )
    title(result, f"{summary.name}: accuracy by variant", theme)
    label(axis, theme, f"accuracy {SPLITS[summary.split]}")
    axis.set_yticks(range(len(means)), [variant.name for variant, _ in summary.finished])
    axis.tick_params(axis="y", labelcolor=theme.ink)
    axis.invert_yaxis()
    axis.margins(x=0.08, y=0.08)
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.4g}%")
    grid(axis, theme, "both")
    legend(result, theme)
    return result
