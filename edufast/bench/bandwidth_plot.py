"""kd_loss on a GPU as a plot: ``python -m edufast.bench.bandwidth_plot FOLDER`` reads
FOLDER/bandwidth.jsonl and writes FOLDER/bandwidth.png."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edufast.bench.bandwidth import FILE
from edufast.bench.lines import Lines

_NAME = re.compile(
    r"kd (?P<rows>\d+)x(?P<classes>\d+) K=(?P<teachers>\d+) bf16 (?P<backend>\w+) autograd"
)
_SMALL = 1 << 20  # logits: what is bound by latency is not drawn
_COLOURS = {"cuda": "C0", "triton": "C1", "compile": "C3", "liger": "C2"}


def times(lines: Lines) -> dict[tuple[int, int], dict[str, tuple[float, float]]]:
    """Of large problems, by (classes, teachers) and backend: µs both ways, and µs of a copy."""
    found: dict[tuple[int, int], dict[str, tuple[float, float]]] = {}
    for record in lines:
        match = _NAME.fullmatch(record["name"])
        if match and int(match["rows"]) * int(match["classes"]) > _SMALL:
            shape = int(match["classes"]), int(match["teachers"])
            found.setdefault(shape, {})[match["backend"]] = record["us"], record["copy_us"]
    return found


def plot(folder: Path) -> Path:
    """A row for every shape, a marker for every backend. Returns the picture's path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = sorted(times(Lines(folder / FILE)).items(), reverse=True)
    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.22 * len(shapes)))
    for row, (_, backends) in enumerate(shapes):
        for backend, (us, _) in backends.items():
            axes.plot(us, row, "o", color=_COLOURS[backend], label=backend)
        axes.plot(min(copy for _, copy in backends.values()), row, "|", color="0.3", label="copy")
    axes.set_yticks(range(len(shapes)), [f"{c} classes, K = {k}" for (c, k), _ in shapes])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="forward and backward in µs (bfloat16, about 64 MB, one graph)")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique.keys())
    axes.grid(axis="x", alpha=0.3)
    path = folder / FILE.replace(".jsonl", ".png")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


if __name__ == "__main__":
    print(plot(Path(sys.argv[1])))
