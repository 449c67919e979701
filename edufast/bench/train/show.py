"""Results of contests as tables, Markdown and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from edufast.bench.results import duration
from edufast.bench.tables import numbers_table
from edufast.bench.train.costs import EPOCHS, ONE, GradeCost, training_costs
from edufast.bench.train.setting import PAIRS

PLAIN = "(a) plain loop"
CAREFUL_EAGER, CAREFUL = CAREFUL_ONES = ("(b) careful, eager", "(b) careful, compiled")
ROUTED = "+ School: routing, quotas"
BF16 = "+ bf16"
COMPILED = "+ torch.compile"
FILLING = "+ cache, filling, eager"
CACHE = "+ cache, filled, eager"
CACHE_COMPILED = "+ cache, filled, compiled"
FLOOR = "floor: live teachers"
FLOOR_CACHED = "floor: student alone"
# Contestants that compile, and those that do the same without.
UNCOMPILED = {CAREFUL: CAREFUL_EAGER, COMPILED: BF16, CACHE_COMPILED: CACHE}

COLUMNS = ("", "images/s", "range", "x (a)", "x (b)", "epoch", "data wait", "compiling")


def title(result: dict[str, Any]) -> str:
    """Pair and batch size of a contest."""
    return f"{result['pair'].replace('-', ' → ')}, batch {result['batch_size']}"


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for every contestant, under ``COLUMNS``."""
    scores = result["results"]
    careful = max(
        (name for name in CAREFUL_ONES if name in scores),
        key=lambda name: scores[name]["images_per_second"],
    )
    lines: list[tuple[str, ...]] = []
    for name, score in scores.items():
        speed = score["images_per_second"]
        lines.append(
            (
                name,
                number(speed),
                f"{number(min(score['speeds']))}–{number(max(score['speeds']))}",
                f"{speedup(result, name, PLAIN):.2f}",
                f"{speedup(result, name, careful):.2f}",
                duration(result["epoch_samples"] / speed),
                f"{score['data_wait']:.1%}",
                payback(result, name),
            )
        )
    return lines


def speedup(result: dict[str, Any], name: str, other: str) -> float:
    """How many times as fast as ``other``: the median over the rounds, because within a round both
    had the same machine load."""
    speeds, others = (result["results"][who]["speeds"] for who in (name, other))
    return median(a / b for a, b in zip(speeds, others, strict=True))


def payback(result: dict[str, Any], name: str) -> str:
    """The time that compiling takes, and the number of steps after which it has saved as much."""
    if name not in UNCOMPILED:
        return ""
    score, eager = result["results"][name], UNCOMPILED[name]
    step = result["batch_size"] / score["images_per_second"]
    saved = step * (speedup(result, name, eager) - 1)
    when = f"{score['startup'] / saved:,.0f} steps" if saved > 0 else "never"
    return f"{duration(score['startup'])}, {when}"


def number(value: float) -> str:
    """With one decimal below 100, and none above."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(result: dict[str, Any]) -> Table:
    """The results of a contest."""
    lines = [tuple(cell.replace(", ", ",\n") for cell in line) for line in rows(result)]
    return _table(title(result), COLUMNS, lines)


def _table(heading: str, columns: Sequence[str], lines: list[tuple[str, ...]]) -> Table:
    t = numbers_table(heading, *(column.replace(" ", "\n") for column in columns))
    for line in lines:
        t.add_row(*line)
    return t


COST_COLUMNS = ("PFLOP", "grade", "epochs", "student", "teachers", "total", "x plain KD")


def cost_rows(costs: list[GradeCost]) -> list[tuple[str, ...]]:
    """A line for every grade, and one for the sum of each method, under ``COST_COLUMNS``."""
    plain = sum(cost.student + cost.teachers for cost in costs if cost.method == ONE)
    lines: list[tuple[str, ...]] = []
    for method in dict.fromkeys(cost.method for cost in costs):
        grades = [cost for cost in costs if cost.method == method]
        sums = GradeCost(
            method,
            0,
            sum(cost.epochs for cost in grades),
            sum(cost.student for cost in grades),
            sum(cost.teachers for cost in grades),
        )
        for cost in [*grades, sums] if len(grades) > 1 else [sums]:
            everything = cost.student + cost.teachers
            flops = [f"{f / 1e15:.2f}" for f in (cost.student, cost.teachers, everything)]
            grade = str(cost.grade) if cost.grade else "all"
            lines.append((method, grade, str(cost.epochs), *flops, f"{everything / plain:.2f}"))
    return lines


def cost_table(pair: str, costs: list[GradeCost]) -> Table:
    """The FLOPs of a pair's training methods."""
    return _table(f"{pair.replace('-', ' → ')}, {EPOCHS} epochs", COST_COLUMNS, cost_rows(costs))


def markdown(machine: Mapping[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """All tables as Markdown, for a document."""
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{machine.get('gpu', 'CPU only')}; load at start {machine['load']:.1f}. Medians over "
        "blocks of steps that the contestants train in turns, without compile time. (b): the "
        "faster of the two careful loops.",
    ]
    for result in results:
        lines += ["", f"**{title(result)}**", "", *_markdown_table(COLUMNS, rows(result))]
    for pair in dict.fromkeys(result["pair"] for result in results):
        heading = f"**{pair.replace('-', ' → ')}, {EPOCHS} epochs**"
        costs = cost_rows(training_costs(PAIRS[pair]))
        lines += ["", heading, "", *_markdown_table(COST_COLUMNS, costs)]
    return "\n".join(lines) + "\n"


def _markdown_table(columns: Sequence[str], lines: list[tuple[str, ...]]) -> list[str]:
    ruler = "|---" + "|---:" * (len(columns) - 1) + "|"
    return [
        "| " + " | ".join(columns) + " |",
        ruler,
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def plot(results: Sequence[dict[str, Any]]) -> bytes:
    """Images per second of every contestant, one panel per contest, with the floors as lines."""
    from edufast.experiments.report.style import LIGHT, figure, label, png

    drawn, axes = figure(LIGHT, 0.6 + 3.2 * len(results), rows=len(results))
    for axis, result in zip(axes, results, strict=True):
        scores = result["results"]
        names = [name for name in scores if name not in (FLOOR, FLOOR_CACHED)]
        speeds = [scores[name]["images_per_second"] for name in names]
        lows = [min(scores[name]["speeds"]) for name in names]
        highs = [max(scores[name]["speeds"]) for name in names]
        reach = [[s - low for s, low in zip(speeds, lows, strict=True)],
                 [high - s for s, high in zip(speeds, highs, strict=True)]]  # fmt: skip
        colours = [LIGHT.palette[0] if name.startswith("+") else LIGHT.palette[6] for name in names]
        axis.barh(names, speeds, xerr=reach, color=colours, ecolor=LIGHT.faint)
        for name, high in zip(names, highs, strict=True):
            text = f"  {speedup(result, name, PLAIN):.1f} x"
            axis.text(high, name, text, va="center", color=LIGHT.ink, fontsize=9)
        for floor, line in ((FLOOR, "--"), (FLOOR_CACHED, ":")):
            axis.axvline(scores[floor]["images_per_second"], color=LIGHT.palette[1], linestyle=line)
        axis.margins(x=0.1)
        axis.invert_yaxis()
        axis.set_title(title(result), loc="left", color=LIGHT.ink, fontsize=10)
    explained = (
        "images/s (bars: median; whiskers: slowest and fastest block; x: times the plain loop)\n"
        "lines: arithmetic alone, dashed with teachers, dotted without"
    )
    label(axes[-1], LIGHT, x=explained)
    return png(drawn)
