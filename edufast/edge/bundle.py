"""A folder with everything that a device needs: student.edge/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edufast.data import DataSet
from edufast.data.centre_crop import CentreCrop
from edufast.edge import MAX_DROP
from edufast.edge.contract import (
    CARD,
    CONTRACT,
    GOLDEN,
    SCRIPT,
    SUFFIX,
    BundledFile,
    Contract,
    file_hash,
)
from edufast.edge.device_rows import SCRIPT as BENCH
from edufast.edge.device_rows import write_device_script
from edufast.edge.exit_choice import Target
from edufast.edge.export import ExportReport
from edufast.edge.format import Format, OnnxFormat
from edufast.edge.onnx import INPUT, OUTPUT
from edufast.edge.registry import FORMATS, find_format
from edufast.edge.trained import export_trained, known_images, write_script
from edufast.models.weights import ModelInfo
from edufast.student.student import Student
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_folder

GOLDEN_IMAGES = 32  # of the validation split, spread over the classes

_CARD = """# {name}

An image classifier of {classes} classes, trained by EduFast on `{data}`.

| file | format | size | accuracy | difference from PyTorch, 95 % interval |
|---|---|---|---|---|
{rows}

Accuracy is that of the file itself on {images:,} validation images. It may be lower on other kinds
of pictures: measure it on your own.

- `contract.json`: classes, layout of the input, resize rule, hashes.
- `python {script} {first} picture.jpg`: classifies pictures with numpy, Pillow and onnxruntime.
- `python {bench} {first}`: measures latency and memory here, with numpy and onnxruntime.
- `edufast verify .`: runs every file on the {count} validation images in `{golden}`, and compares
  the answers with those recorded there.
"""


def write_bundle(
    model: nn.Module,
    info: ModelInfo,
    data: DataSet,
    folder: Path,
    formats: Sequence[str] = ("onnx", "onnx-int8"),
    max_drop: float = MAX_DROP,
    exits: Student | None = None,
    early: Target | None = None,
) -> list[ExportReport]:
    """Export ``model`` in each of ``formats`` into a bundle, or write nothing.

    The same model, data and packages give the same bytes. An earlier bundle is replaced.

    Args:
        folder: named ``*.edge``.
        exits, early: as for :func:`edufast.edge.trained.export_trained`.

    Raises:
        UserError, ValueError, ExportError: as :func:`edufast.edge.export.export`; or
            ``folder`` exists and is not a bundle.
    """
    if folder.suffix != SUFFIX:
        raise UserError(f"{folder} is not a name for a bundle; expected one ending in {SUFFIX}")
    if folder.exists() and not (folder / CONTRACT).is_file():
        raise UserError(f"{folder} exists and is not a bundle; expected another name")
    forms = bundled_formats(formats)
    with atomic_folder(folder) as temporary:
        paths = {name: temporary / f"student{form.SUFFIX}" for name, form in forms.items()}
        reports = export_trained(model, info, data, paths, max_drop, exits, early)
        images = known_images(data, "validation", info, GOLDEN_IMAGES)[0][:]
        logits = {
            report.path.name: forms[report.format].runner(report.path, threads=1)(images)
            for report in reports
        }
        arrays: dict[str, Any] = {"images": images, **logits}
        np.savez(temporary / GOLDEN, **arrays)
        write_script(temporary)
        write_device_script(temporary)
        versions = {k: v for form in forms.values() for k, v in form.versions().items()}
        contract = _contract(temporary, info, reports, versions)
        contract.write(temporary)
        (temporary / CARD).write_text(_card(folder.stem, info, contract, len(images)), "utf-8")
    return [replace(report, path=folder / report.path.name) for report in reports]


def bundled_formats(names: Sequence[str]) -> dict[str, Format]:
    """The formats that a bundle is to have, by name.

    Raises:
        UserError: one is unknown or lacks a package; or none is of .onnx files.
    """
    forms = {name: find_format(name) for name in names}
    if not any(isinstance(form, OnnxFormat) for form in forms.values()):
        raise UserError(
            f"a bundle's {SCRIPT} runs .onnx files; expected onnx or onnx-int8 among the formats, "
            f"not only {', '.join(forms)}"
        )
    return forms


def _contract(
    folder: Path, info: ModelInfo, reports: Sequence[ExportReport], versions: dict[str, str]
) -> Contract:
    size = info.image_size
    return Contract(
        classes=info.classes,
        input={"name": INPUT, "dtype": "uint8", "shape": ["N", size, size, 3], "colours": "RGB"},
        resize=CentreCrop.to(size, size).to_dict(),
        output={"name": OUTPUT, "dtype": "float32", "shape": ["N", len(info.classes)]},
        files=tuple(_file(folder, report) for report in reports),
        golden=file_hash(folder / GOLDEN),
        versions=versions,
    )


def _file(folder: Path, report: ExportReport) -> BundledFile:
    parity = report.parity
    assert parity.accuracy_exported is not None and parity.accuracy_torch is not None
    assert parity.interval is not None
    return BundledFile(
        name=report.path.name,
        format=report.format,
        # Early exits may change with the last bit of a confidence.
        exact=not FORMATS[report.format].INTEGERS and report.early is None,
        sha256=file_hash(folder / report.path.name),
        bytes=report.bytes,
        images=parity.samples,
        accuracy=parity.accuracy_exported,
        accuracy_torch=parity.accuracy_torch,
        interval=parity.interval,
        exit=report.exit,
        early=None if report.early is None else asdict(report.early),
    )


def _card(name: str, info: ModelInfo, contract: Contract, golden: int) -> str:
    rows = []
    for file in contract.files:
        low, high = (100 * bound for bound in file.interval)
        drop = 100 * (file.accuracy - file.accuracy_torch)
        rows.append(
            f"| `{file.name}` | {file.format} | {file.bytes / 1e6:.3f} MB | {file.accuracy:.2%} | "
            f"{drop:+.2f} ({low:+.2f} to {high:+.2f}) points |"
        )
    return _CARD.format(
        name=name,
        classes=len(info.classes),
        data=info.data_title,
        rows="\n".join(rows),
        images=contract.files[0].images,
        script=SCRIPT,
        bench=BENCH,
        first=next(file.name for file in contract.files if file.name.endswith(".onnx")),
        golden=GOLDEN,
        count=golden,
    )
