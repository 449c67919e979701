"""The results of a contest, for people: tables, Markdown, a plot."""

from __future__ import annotations

from typing import Any

from rich.table import Table

PLAIN = "(a) plain loop"
CAREFUL_EAGER = "(b) careful loop, not compiled"
CAREFUL = "(b) careful loop, compiled"
FLOOR = "floor: the arithmetic alone"
# Contestants that differ from another by compiling alone.
UNCOMPILED = {CAREFUL: CAREFUL_EAGER}

COLUMNS = ("", "images/s", "range", "x (a)", "x (b)", "epoch", "data wait", "start", "pays back")


def title(result: dict[str, Any]) -> str:
    return f"{result['pair'].replace('-', ' → ')}, batch {result['batch_size']}"


def rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line for every contestant, under ``COLUMNS``."""
    scores = result["results"]
    plain = scores[PLAIN]["images_per_second"]
    careful = max(scores[name]["images_per_second"] for name in (CAREFUL, CAREFUL_EAGER))
    lines: list[tuple[str, ...]] = []
    for name, score in scores.items():
        speed = score["images_per_second"]
        lines.append(
            (
                name,
                number(speed),
                f"{number(min(score['speeds']))}–{number(max(score['speeds']))}",
                f"{speed / plain:.2f}",
                f"{speed / careful:.2f}",
                duration(result["epoch_samples"] / speed),
                f"{score['data_wait']:.1%}",
                duration(score["startup"]),
                payback(name, result),
            )
        )
    return lines


def payback(name: str, result: dict[str, Any]) -> str:
    """After how many steps compiling has saved as much time as it took."""
    if name not in UNCOMPILED:
        return ""
    compiled, eager = (result["results"][n] for n in (name, UNCOMPILED[name]))
    saved = 1 / eager["images_per_second"] - 1 / compiled["images_per_second"]
    if saved <= 0:
        return "never"
    return f"{compiled['startup'] / saved / result['batch_size']:,.0f} steps"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def table(result: dict[str, Any]) -> Table:
    t = Table(title=title(result))
    for position, column in enumerate(COLUMNS):
        t.add_column(column, justify="left" if position == 0 else "right")
    for line in rows(result):
        t.add_row(*line)
    return t


def markdown(machine: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """All tables, to be copied into a document."""
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"{machine.get('gpu', 'CPU only')}; load when started {machine['load']:.1f}.",
    ]
    for result in results:
        lines += ["", f"**{title(result)}**", "", "| " + " | ".join(COLUMNS) + " |"]
        lines.append("|---" + "|---:" * (len(COLUMNS) - 1) + "|")
        lines += ["| " + " | ".join(line) + " |" for line in rows(result)]
    return "\n".join(lines) + "\n"


def plot(results: list[dict[str, Any]]) -> bytes:
    """Images per second of every contestant, one panel a contest; the floor is a line."""
    from edufast.report.style import LIGHT, figure, label, png

    drawn, axes = figure(LIGHT, 0.6 + 2.6 * len(results), rows=len(results))
    for axis, result in zip(axes, results, strict=True):
        scores = {n: s for n, s in result["results"].items() if not n.startswith("floor")}
        speeds = [s["images_per_second"] for s in scores.values()]
        spread = [
            [s["images_per_second"] - min(s["speeds"]) for s in scores.values()],
            [max(s["speeds"]) - s["images_per_second"] for s in scores.values()],
        ]
        colours = [LIGHT.palette[0] if n.startswith("+") else LIGHT.palette[6] for n in scores]
        axis.barh(list(scores), speeds, xerr=spread, color=colours, ecolor=LIGHT.ink)
        axis.axvline(
            result["results"][FLOOR]["images_per_second"], color=LIGHT.palette[1], linestyle="--"
        )
        axis.invert_yaxis()
        axis.set_title(title(result), loc="left", color=LIGHT.ink, fontsize=10)
        label(
            axis, LIGHT, x="images/s; bars: median, whiskers: slowest to fastest block, line: floor"
        )
    return png(drawn)
