"""How every plot looks: two themes, one palette that colour-blind readers can tell apart."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

WIDTH = 8.0  # inches, of every figure
DPI = 144
MARKERS = "osD^vPX*"
# Methods keep their colour from report to report.
_KNOWN = ("education", "scratch", "kd", "routed")


@dataclass(frozen=True)
class Theme:
    """Colours of one rendering. ``palette`` is Okabe and Ito's, lightened for dark paper."""

    name: str
    paper: str
    ink: str
    faint: str  # secondary text
    grid: str
    ramp: tuple[str, ...]  # sequential, from low to high
    palette: tuple[str, ...]

    @property
    def sequential(self) -> LinearSegmentedColormap:
        return LinearSegmentedColormap.from_list("sequential", self.ramp)


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1b2430",
    faint="#5b6776",
    grid="#e4e8ee",
    ramp=("#e6f1fa", "#5aa2d8", "#0a4a80"),
    palette=(
        "#0072b2",
        "#d55e00",
        "#b07f00",
        "#009e73",
        "#cc79a7",
        "#56b4e9",
        "#5b6776",
        "#8a6d3b",
    ),
)
DARK = Theme(
    name="dark",
    paper="#171d26",
    ink="#e8ecf2",
    faint="#a3aebd",
    grid="#2b3441",
    ramp=("#1f2f42", "#3a76a8", "#8fcbff"),
    palette=(
        "#56b4e9",
        "#f28e4b",
        "#f0c64b",
        "#3ec99f",
        "#e3a0c7",
        "#9fd3f5",
        "#a3aebd",
        "#c9a56b",
    ),
)


def method_styles(names: Sequence[str], theme: Theme) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method."""
    order = [*_KNOWN, *(name for name in names if name not in _KNOWN)]
    return {
        name: (theme.palette[i % len(theme.palette)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(order)
        if name in names
    }


def figure(
    theme: Theme, height: float, columns: int = 1, rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of `WIDTH` by ``height`` inches, and its axes row by row."""
    result = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor=theme.paper, layout="constrained")
    axes = list(result.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_facecolor(theme.paper)
        axis.tick_params(colors=theme.faint, labelsize=10, length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(theme.grid)
        axis.set_axisbelow(True)
    return result, axes


def title(drawn: Figure, text: str, theme: Theme) -> None:
    drawn.suptitle(text, x=0.0, ha="left", color=theme.ink, fontsize=12, fontweight="bold")


def label(axis: Axes, theme: Theme, x: str = "", y: str = "") -> None:
    axis.set_xlabel(x, color=theme.faint, fontsize=10)
    axis.set_ylabel(y, color=theme.faint, fontsize=10)


def grid(axis: Axes, theme: Theme, which: Literal["both", "x", "y"] = "y") -> None:
    axis.grid(axis=which, color=theme.grid, linewidth=1)


_LEGEND_LINE, _LEGEND_KEY = 110, 6  # characters that fit in a line; that a key and its space take
_LEGEND_LINE_HEIGHT = 0.22  # inches


def legend(drawn: Figure, theme: Theme) -> None:
    """A legend under the axes, where it never covers data; none for a single entry."""
    handles, names = drawn.axes[0].get_legend_handles_labels()
    if len(names) > 1:
        column = _LEGEND_KEY + max(map(len, names))
        columns = min(len(names), max(1, _LEGEND_LINE // column))
        # The figure grows by the lines, so that the axes keep their height.
        lines = -(-len(names) // columns)
        drawn.set_figheight(drawn.get_figheight() + (lines - 1) * _LEGEND_LINE_HEIGHT)
        drawn.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            labelcolor=theme.ink,
            fontsize=10,
            handlelength=1.4,
            columnspacing=1.6,
        )


def percent_axis(axis: Axes) -> None:
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def count_axis(axis: Axes) -> None:
    """Thousands as 12k."""
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    )


def readable(background: str | tuple[float, ...]) -> str:
    """Dark or light, whichever contrasts more with ``background`` (WCAG 2 relative luminance)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#10161e" if luminance > 0.19 else "#ffffff"


def png(drawn: Figure) -> bytes:
    """The figure as a PNG file."""
    return _saved(drawn, "png")


def svg(drawn: Figure) -> bytes:
    """The figure as an SVG file."""
    return _saved(drawn, "svg", metadata={"Date": None})


def _saved(drawn: Figure, kind: str, **options: Any) -> bytes:
    for text in drawn.findobj(Text):
        text.set_parse_math(False)  # names with dollar signs are no formulas
    buffer = io.BytesIO()
    drawn.savefig(buffer, format=kind, facecolor=drawn.get_facecolor(), **options)
    return buffer.getvalue()
