"""Exporting a graduate to files for edge devices, verified before they appear on disk.

    report = export(graduate, "student.onnx", input_size=(3, 32, 32), classes=data.classes,
                    mean=data.mean, std=data.std, samples=images, labels=labels)

Each format has a module, see `registry`; `original`, `preprocess` and `parity` are shared by all.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edufast.edge import MAX_DROP
from edufast.edge.calibration import MIN_IMAGES
from edufast.edge.device_rows import DeviceRow, measure_here
from edufast.edge.early_exit import EarlyExits, write_early_exit
from edufast.edge.exit_choice import Target
from edufast.edge.format import Format, OnnxFormat
from edufast.edge.latency import Latency, measure_latency, measure_torch
from edufast.edge.original import Original
from edufast.edge.parity import ExportError, Parity, compare
from edufast.edge.registry import FORMATS, find_format
from edufast.student.student import Student
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write, refuse_special_file
from edufast.utils.instances import check_instance


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it matches the model.

    Attributes:
        path: the file.
        format: its name.
        opset: version of the ONNX operator set in an .onnx file.
        bytes: size of the file.
        parity: the comparison with the PyTorch model.
        noise: whether the comparison used random images because no samples were given.
        classes: names in the order of the logits, if they were given.
        latency: of one image on one thread.
        torch_latency: likewise, of the model in PyTorch, not compiled.
        alone: the file in a process of its own, in the runtime that devices have.
        exit: number of the student's fragments in it, if it ends at an exit.
        early: of a program with early exits.
    """

    path: Path
    format: str
    opset: int | None
    bytes: int
    parity: Parity
    noise: bool
    classes: tuple[str, ...] | None
    latency: Latency
    torch_latency: Latency
    alone: DeviceRow
    exit: int | None = None
    early: EarlyExits | None = None

    @property
    def worst_class(self) -> str | None:
        """Name, or else position, of the class that loses most, if one does."""
        worst = self.parity.worst_class
        if worst is None:
            return None
        return str(worst.position) if self.classes is None else self.classes[worst.position]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types, with the file's name in place of its path."""
        parity = dataclasses.asdict(self.parity)
        parity["accuracy"] = parity.pop("accuracy_exported")
        if parity["worst_class"] is not None:
            parity["worst_class"]["class"] = self.worst_class
        return {
            "path": self.path.name,
            "format": self.format,
            "opset": self.opset,
            "bytes": self.bytes,
            "noise": self.noise,
            **parity,
            "latency_ms": self.latency.median_ms,
            "latency_p95_ms": self.latency.p95_ms,
            "load_ms": self.latency.load_ms,
            "torch_latency_ms": self.torch_latency.median_ms,
            "peak_bytes": self.alone.peak_bytes,
            "runtime_bytes": self.alone.runtime_bytes,
            "exit": self.exit,
            "early": None if self.early is None else dataclasses.asdict(self.early),
        }


@dataclass(frozen=True, eq=False)
class Wanted:
    """A file to export.

    Attributes:
        original: what it is compared with.
        format: its name.
        path: the file to write.
        exit: number of the student's fragments in ``original``, if it ends at an exit.
        early: of a program with early exits: the student with exits whose graduate
            ``original`` is, and what the threshold is chosen for.
    """

    original: Original
    format: str
    path: Path
    exit: int | None = None
    early: tuple[Student, Target] | None = None


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to: str = "onnx",
    input_size: tuple[int, int, int],
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    samples: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    calibration: np.ndarray | None = None,
    max_drop: float = MAX_DROP,
    opset: int = 18,
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write ``model`` to ``path`` as one file, and verify it before it appears there.

    With ``mean`` and ``std`` the input is image bytes, uint8 (N, H, W, C), which the file scales
    and normalises itself, and its metadata says how validation crops and resizes pictures to that
    size; without them it is float32 (N, C, H, W), already normalised. The input is called
    ``image``, the output ``logits``, where the format has names. An .onnx file takes any batch size
    N, others one image. The exported model is in eval mode; ``model`` itself is not changed and may
    be in any mode, on any device and of any dtype.

    Args:
        model: maps float32 images (N, C, H, W) to logits (N, classes).
        path: the file to write, ``.onnx``, ``.pte`` or ``.tflite``.
        to: ``"onnx"``, ``"executorch"`` or ``"litert"``: float32. These with ``-int8``: 8-bit
            integers where the runtime has them, for which samples, labels and calibration are
            needed.
        input_size: (C, H, W).
        classes: class names in the order of the logits, stored in the file's metadata.
        mean, std: per channel, of pixel / 255.
        samples: N >= 2 images for verification, in the layout of the file's input. None: random
            images, which show that the arithmetic agrees, not that real images are classified the
            same.
        labels: (N,) integers; if given, the accuracies are compared too.
        calibration: at least 64 images of the training split in the same layout, from which
            integers take the ranges of activations; none of ``samples``.
        max_drop: how many points of accuracy integers may lose. A float32 file may lose none.
        opset: version of the ONNX operator set. PyTorch writes 18 and converts it to others; it is
            an error if it cannot.
        metadata: more entries for the file's metadata; values other than strings are stored as
            JSON.

    Raises:
        UserError: there is no such format, the suffix does not go with it, a package of the
            ``export`` extra is missing, or ``path`` exists and is not a regular file.
        ValueError: the arguments do not fit together.
        ExportError: the model cannot be exported, or the file fails verification; ``path`` then
            keeps its old content.
    """
    check_instance("to", to, str)
    paths = {to: Path(path)}
    check_request(paths, max_drop)
    samples, calibration = (None if i is None else np.asarray(i) for i in (samples, calibration))
    if calibration is not None and samples is not None:
        _check_apart(calibration, samples)
    original = Original.of(
        model,
        input_size=input_size,
        classes=classes,
        mean=mean,
        std=std,
        samples=samples,
        labels=labels,
        calibration=calibration,
        metadata=metadata,
        opset=opset,
    )
    (report,) = export_all([Wanted(original, to, paths[to])], max_drop)
    return report


def export_all(files: Sequence[Wanted], max_drop: float = MAX_DROP) -> list[ExportReport]:
    """Write every one of ``files``, or none where one of them fails.

    Raises:
        UserError, ValueError, ExportError: as :func:`export`.
    """
    for each in files:
        check_request({each.format: each.path}, max_drop)
        _check_images(each)
    reports = []
    latencies = {
        original: measure_torch(original.run, original.images)
        for original in dict.fromkeys(each.original for each in files)
    }
    with ExitStack() as written:
        for each in files:
            temporary = written.enter_context(atomic_write(each.path))
            try:
                reports.append(_written(each, temporary, max_drop, latencies[each.original]))
            except ExportError as error:
                if len(files) == 1:
                    raise
                raise ExportError(f"{each.path.name}: {error}") from error
    return reports


def verify(
    model: nn.Module,
    path: str | os.PathLike[str],
    samples: np.ndarray,
    *,
    to: str = "onnx",
    labels: np.ndarray | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    max_drop: float = MAX_DROP,
) -> Parity:
    """Compare the exported file at ``path`` with ``model`` on N >= 2 images.

    The arguments are those of `export`; ``mean`` and ``std`` as they were when it was exported.

    Raises:
        UserError: there is no such file, or its suffix names no known format.
        ValueError: samples or labels do not fit the model.
        ExportError: as :func:`export`.
    """
    path = Path(path)
    form = _format(to, path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    samples = np.asarray(samples)
    shape = samples.shape[1:]
    if len(shape) != 3:
        raise ValueError(f"samples must be a batch of images, 4 axes, got {samples.shape}")
    input_size = shape if mean is None else (shape[2], *shape[:2])
    original = Original.of(
        model, input_size=input_size, mean=mean, std=std, samples=samples, labels=labels
    )
    if form.INTEGERS:
        _check_labels(to, original)
    return _parity(original, form, path, max_drop)


def check_request(paths: Mapping[str, Path], max_drop: float) -> None:
    """Check, before anything is computed, that a file of each format can be written to its path.

    Raises:
        UserError, ValueError: as :func:`export`.
    """
    if not isinstance(max_drop, (int, float)) or not 0 <= max_drop <= 100:  # nan, too
        raise ValueError(f"max_drop is {max_drop!r}; expected points of accuracy from 0 to 100")
    for name, path in paths.items():
        _format(name, path)
        refuse_special_file(path)


def _format(name: str, path: Path) -> Format:
    form = find_format(name)
    suffix = Path(name + form.SUFFIX).suffix  # of student.int8.onnx, .onnx is enough
    if path.suffix != suffix:
        raise UserError(f"cannot export {name} to {path.name}; expected a file name with {suffix}")
    return form


def _written(
    wanted: Wanted, temporary: Path, max_drop: float, torch_latency: Latency
) -> ExportReport:
    original, form = wanted.original, FORMATS[wanted.format]
    metadata = {**original.metadata, "versions": form.versions()}
    early = None
    if wanted.early is None:
        form.write(original, temporary, metadata)
        parity = _parity(original, form, temporary, max_drop)
    else:
        assert isinstance(form, OnnxFormat)
        early, parity = write_early_exit(original, *wanted.early, form, temporary, metadata)
    return ExportReport(
        path=wanted.path,
        format=wanted.format,
        opset=original.opset if isinstance(form, OnnxFormat) else None,
        bytes=temporary.stat().st_size,
        parity=parity,
        noise=original.noise,
        classes=original.classes,
        latency=measure_latency(partial(form.runner, temporary, threads=1), original.images),
        torch_latency=torch_latency,
        alone=measure_here(temporary),
        exit=wanted.exit,
        early=early,
    )


def _parity(original: Original, form: Format, path: Path, max_drop: float) -> Parity:
    return compare(
        original.expected,
        form.runner(path),
        original.samples,
        original.labels,
        max_drop=max_drop if form.INTEGERS else None,
    )


def _check_images(wanted: Wanted) -> None:
    name, original = wanted.format, wanted.original
    form = FORMATS[name]
    if form.INTEGERS and original.calibration is None:
        raise ValueError(
            f"{name} needs calibration: at least {MIN_IMAGES} images of the training split"
        )
    if wanted.early is not None:
        _check_labels("a program with early exits", original)
    if form.INTEGERS:
        _check_labels(name, original)


def _check_labels(name: str, original: Original) -> None:
    if original.labels is None:
        raise ValueError(f"{name} is judged by its accuracy: expected samples and their labels")


def _check_apart(calibration: np.ndarray, samples: np.ndarray) -> None:
    """Verification on images that the ranges come from would flatter the file.

    A data set may hold a few images twice, once in each split.
    """
    verified = {hash(image.tobytes()) for image in samples}
    shared = sum(hash(image.tobytes()) in verified for image in calibration)
    if 2 * shared > len(calibration):
        raise ValueError(
            f"calibration: {shared} of {len(calibration)} images are samples for verification, "
            "too; expected images of the training split"
        )
