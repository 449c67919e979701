"""``edufast bench all``: every benchmark into one folder, and a page that shows them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from edufast.bench.benchmark import Benchmark, missing, run
from edufast.bench.benchmarks import BENCHMARKS
from edufast.bench.results import Measurement, as_text, measurements, read
from edufast.experiments.report.html import folded, image_data, note, page, table
from edufast.utils.errors import UserError, one_line
from edufast.utils.extras import require
from edufast.utils.files import atomic_write

PAGE = "index.html"


def main(
    quick: bool,
    html: bool,
    out: Path,
    device: str,
    threads: int | None,
    say: Callable[[str], None],
) -> None:
    """Measure what ``out`` does not hold yet; with ``html`` write its page, after every benchmark.

    A benchmark that lacks a package, or fails in torch, is left out, in a line; the others are
    measured.

    Args:
        quick: the small version of each; those in ``out`` that are not quick are kept.
        html: whether to write ``out/index.html``.
        out: folder of the results, one file for each benchmark.
        device: "cpu" or a CUDA device.
        threads: number of CPU threads for PyTorch; None: unchanged.
        say: called with lines for people.

    Raises:
        UserError: ``out`` holds results of another machine or commit; nothing was measured.
    """
    require("edufast bench all", "train", "matplotlib")
    done = {b.name for b in BENCHMARKS if _is_done(b, quick, out, device, threads)}
    left_out: dict[str, str] = {}
    for benchmark in BENCHMARKS:
        if benchmark.name in done:
            say(f"{benchmark.name}: measured already")
        else:
            say(f"{benchmark.name} ...")
            try:
                run(benchmark, quick, out, device, threads)
            except (UserError, RuntimeError) as error:  # RuntimeError: of torch, as without memory
                left_out[benchmark.name] = one_line(error)
                say(f"{benchmark.name} is left out: {one_line(error)}")
        if html:
            write_page(out, left_out)
    if html:
        say(f"page: {out / PAGE}")


def _is_done(
    benchmark: Benchmark[Any], quick: bool, out: Path, device: str, threads: int | None
) -> bool:
    where = benchmark.machine(device, threads)
    contests = benchmark.contests(benchmark.cases(quick, where["device"]))
    return not missing(contests, benchmark.earlier(out, where), quick)


# --- the page -----------------------------------------------------------------------------------


def write_page(out: Path, left_out: dict[str, str]) -> None:
    """Write ``out/index.html``, which needs no other file.

    Args:
        out: a folder of results.
        left_out: why there is none of a benchmark, by its name.
    """
    results = {b.name: read(b.path(out), b.title) for b in BENCHMARKS if b.path(out).exists()}
    described: dict[str, Any] = next((c["machine"] for c in results.values()), {})
    facts = "".join(
        f"<span>{escape(key)} <b>{escape(str(value))}</b></span>"
        for key, value in described.items()
        if key != "load" and value is not None
    )
    sections = [
        f"<section><h2>{escape(benchmark.heading)}</h2>"
        + (_section(benchmark, results[benchmark.name], out) if benchmark.name in results else "")
        + (note(f"Left out: {left_out[benchmark.name]}") if benchmark.name in left_out else "")
        + "</section>"
        for benchmark in BENCHMARKS
        if benchmark.name in results or benchmark.name in left_out
    ]
    with atomic_write(out / PAGE) as path:
        path.write_text(page("Benchmarks", facts=facts, sections="\n".join(sections)), "utf-8")


def _section(benchmark: Benchmark[Any], content: dict[str, Any], out: Path) -> str:
    plot = out / f"{benchmark.name}.png"
    figure = ""
    if plot.exists():
        source = image_data(plot.read_bytes(), "png")
        caption = escape(benchmark.caption)
        figure = (
            f'<figure><img src="{source}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    by_contest: dict[str, list[Measurement]] = {}
    for m in measurements(content["results"], benchmark.title):
        by_contest.setdefault(m.contest, []).append(m)
    heads = ["", "median", "range", "times as fast as the best rival"]
    rows = [row for found in by_contest.values() for row in _rows(benchmark, found)]
    kind = "quick" if content.get("quick") else "whole"
    load = content["machine"]["load"]
    return (
        figure
        + folded(f"{len(by_contest)} contests", table(heads, rows))
        + note(f"The {kind} benchmark. Load of the machine before: {load:.1f}.")
    )


def _rows(benchmark: Benchmark[Any], contest: list[Measurement]) -> list[list[str]]:
    best = min((m.median for m in contest if benchmark.is_rival(m.name)), default=None)
    rows = [[contest[0].contest, "", "", ""]]
    for m in contest:
        times = "" if best is None else f"{best / m.median:.2f}"
        spread = f"{as_text(m.low)} to {as_text(m.high)}"
        rows.append([f"\u2003{m.name}", as_text(m.median), spread, times])
    return rows
