"""The command that writes a trained student as files for the edge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edufast.cli.common import fail, say, show, table, user
from edufast.cli.options import (
    EarlyExitOption,
    JsonOption,
    MaxDropOption,
    ToOption,
    out_path,
    path_of,
    text_of,
)
from edufast.edge import MAX_DROP
from edufast.edge.contract import SUFFIX
from edufast.utils.errors import one_line
from edufast.utils.lock import folder_lock

_BESIDE = 2  # files in a table, which 80 columns have room for

if TYPE_CHECKING:
    from edufast.edge.early_exit import EarlyExits
    from edufast.edge.export import ExportReport
    from edufast.edge.parity import ClassAccuracy


def export(
    source: Annotated[
        Path, typer.Argument(parser=path_of("source"), help="A run folder or a .safetensors file.")
    ],
    to: ToOption = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            parser=out_path,
            help="File to write; or, if the name ends in .edge, a folder with all a device needs.",
        ),
    ] = None,
    max_drop: MaxDropOption = MAX_DROP,
    early_exit: EarlyExitOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--data"),
            help="Data set or folder to verify on (default: the one trained on).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            parser=text_of("--model"),
            help="Import path of its model, if it has one: edufast runs no code that only a file "
            "names. For a run folder, config.yaml has it.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained student as files for the edge, verified on the validation split.

    Every file is written, or none: one that is another classifier, or loses
    more accuracy than --max-drop, ends the command with exit code 1. Of a run
    with exits, a smaller student ends at each of them: student-exit1.onnx.
    """
    from edufast.edge.bundle import write_bundle
    from edufast.edge.exit_choice import Target
    from edufast.edge.parity import ExportError
    from edufast.edge.registry import find_format
    from edufast.edge.trained import export_trained, write_script
    from edufast.experiments.exporting import read_exportable, record_exports, trained_file

    formats = {name: user(find_format, name) for name in to.split(",")}
    bundled = out is not None and out.suffix == SUFFIX
    if out is not None and not bundled and len(formats) > 1:
        fail(f"--out names one file, and --to {len(formats)} formats; expected one of them", 2)
    if out is not None and not bundled and early_exit is not None:
        fail("--out names one file, and --early-exit writes more; expected one of them", 2)
    early = None if early_exit is None else user(Target.parse, early_exit)
    folder = source if source.is_dir() else source.parent
    with ExitStack() as held:
        if out is None and trained_file(folder).is_file():
            # Until all is recorded: another process would write files of the same names.
            user(held.enter_context, folder_lock(folder))
        found = user(read_exportable, source, data, model)
        network, info, images = found.network, found.info, found.data
        try:
            if out is not None and bundled:
                asked = list(formats), max_drop, found.exits, early
                reports = user(write_bundle, network, info, images, out, *asked)
            else:
                exits = found.exits if out is None else None
                paths = {n: out or found.named.with_suffix(f.SUFFIX) for n, f in formats.items()}
                reports = user(export_trained, network, info, images, paths, max_drop, exits, early)
        except ExportError as error:
            fail(f"{error}; nothing was written", 1)
        except ValueError as error:  # the images do not fit the model
            fail(f"{found.weights}: {one_line(error)}", 2)
        if out is None and source.is_dir():
            user(write_script, source)
            if found.run:
                user(record_exports, source, reports, info, images)
    if as_json:
        for report in reports:
            print(json.dumps({"event": "export", **report.to_dict()}))
    else:
        _print_table(reports)


def _print_table(reports: Sequence[ExportReport]) -> None:
    """A column for each file, a row for each number; files that do not fit beside each other follow
    below."""
    for start in range(0, len(reports), _BESIDE):
        part = reports[start : start + _BESIDE]
        rows = table("", *(report.path.name for report in part))
        for name, cells in _rows(part).items():
            rows.add_row(name, *cells)
        show(rows)
    for report in reports:
        other = "PyTorch" if report.early is None else "the whole student in PyTorch"
        say(
            f"{report.path}: {report.bytes / 1e6:.2f} MB, agreement with {other} "
            f"{report.parity.agreement:.1%} on {report.parity.samples} images"
        )
        if report.early is not None:
            say(f"{report.path}: {_early(report.early)}")


def _early(early: EarlyExits) -> str:
    left = ", ".join(
        f"{share:.1%} after {depth}"
        for depth, share in zip(early.depths, early.shares, strict=True)
    )
    return (
        f"leaves where a class has a probability of {early.threshold:.4g} ({early.target}): {left} "
        f"of {early.depths[-1]} fragments; mean cost {early.cost:.1%} of the whole student's; "
        f"accuracy on images that the threshold was not chosen on {early.accuracy_on_others:.2%}"
    )


def _rows(reports: Sequence[ExportReport]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for report in reports:
        parity, latency = report.parity, report.latency
        cells = {
            "format": report.format,
            "size": f"{report.bytes / 1e6:.3f} MB",
            "images": f"{parity.samples:,}",
        }
        if parity.interval is not None and parity.difference is not None:
            low, high = (100 * bound for bound in parity.interval)
            cells |= {
                "accuracy, PyTorch": f"{parity.accuracy_torch:.2%}",
                "accuracy, file": f"{parity.accuracy_exported:.2%}",
                "difference, points": f"{100 * parity.difference:+.2f}",
                "  95 % interval": f"{low:+.2f} to {high:+.2f}",
                "class that loses most": report.worst_class or "none",
                "  PyTorch, file": _pair(parity.worst_class),
            }
        cells |= {
            "agreement": f"{parity.agreement:.2%}",
            "one image, median": f"{latency.median_ms:.2f} ms",
            "  95th percentile": f"{latency.p95_ms:.2f} ms",
            "  load, first answer": f"{latency.load_ms:.1f} ms",
            "  PyTorch, median": f"{report.torch_latency.median_ms:.2f} ms",
            "peak memory": f"{report.alone.peak_bytes / 1e6:.1f} MB",
            "  runtime alone": f"{report.alone.runtime_bytes / 1e6:.1f} MB",
        }
        for name, cell in cells.items():
            found.setdefault(name, []).append(cell)
    return found


def _pair(worst: ClassAccuracy | None) -> str:
    return "" if worst is None else f"{worst.accuracy_torch:.1%}, {worst.accuracy_exported:.1%}"
