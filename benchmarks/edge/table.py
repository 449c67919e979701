"""Three students as files for the edge: make edge-table, or python table.py RUNS [CIFAR100]

Trains what is not trained there yet, exports bundles in all formats that are installed, and writes
what was measured to table.jsonl and table.md beside this script. RUNS is a folder for them. With
that of CIFAR-100 the first student learns photographs, else digits.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from edufast.edge.intervals import proportion
from edufast.edge.registry import installed_formats

HERE = Path(__file__).parent
CHARACTERS = ("quickstart",), (HERE / "characters_mobilenet.yaml",)
HEADS = (
    "file", "accuracy (95 %)", "difference from PyTorch, points (95 %)", "mean cost", "KB",
    "memory, MB", "ms: median, 95th", "load, ms",
)  # fmt: skip


def main(runs: Path, cifar100: str | None = None) -> None:
    source = f"data.source=cifar100:{cifar100}"
    photographs = HERE / "photographs.yaml", "--set", source
    lines = []
    for recipe, *options in (photographs if cifar100 else ("digits",), *CHARACTERS):
        run = runs / Path(recipe).stem
        edufast("train", recipe, *options, "--out", run)
        bundle = run.with_suffix(".edge")
        to = ",".join(installed_formats())
        formats = ("--to", to, "--early-exit", "1", "--max-drop", "2")
        said = edufast("export", run, *formats, "--json", "--out", bundle)
        lines += [{"student": run.name, **json.loads(line)} for line in said.splitlines()]
    (HERE / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (HERE / "table.md").write_text(markdown(lines), "utf-8")


def markdown(lines: list[dict[str, Any]]) -> str:
    """A row for each student, followed by one for each of its files, of exits the .onnx files."""
    rows = [list(HEADS), ["---"] * len(HEADS)]
    lines = [line for line in lines if line["exit"] is None or "onnx" in line["format"]]
    for student in dict.fromkeys(line["student"] for line in lines):
        rows.append([f"**{student}**", *[""] * (len(HEADS) - 1)])
        rows += [cells(line) for line in lines if line["student"] == student]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def edufast(*arguments: object) -> str:
    """What the command prints for programs; what it tells people is shown."""
    command = [sys.executable, "-m", "edufast", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def cells(line: dict[str, Any]) -> list[str]:
    accuracy, count = line["accuracy"], line["samples"]
    reach = [f"{100 * bound:.1f}" for bound in proportion(round(accuracy * count), count)]
    low, high = (f"{100 * bound:+.2f}" for bound in line["interval"])
    return [
        f"`{line['path']}`",
        f"{100 * accuracy:.2f} % ({reach[0]} to {reach[1]})",
        f"{100 * line['difference']:+.2f} ({low} to {high})",
        "" if line["early"] is None else f"{100 * line['early']['cost']:.0f} %",
        f"{line['bytes'] / 1000:.0f}",
        f"{line['peak_bytes'] / 1e6:.1f}",
        f"{line['latency_ms']:.2f}, {line['latency_p95_ms']:.2f}",
        f"{line['load_ms']:.1f}",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
