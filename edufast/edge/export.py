"""Exporting a graduate to one file for edge devices, verified before it appears on disk.

    report = export(graduate, "student.onnx", input_size=(3, 32, 32), classes=data.classes,
                    mean=data.mean, std=data.std, samples=images, labels=labels)

Each format has a module (so far `onnx`), chosen by the file's suffix; `preprocess` and `parity` are
shared by all formats.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from edufast.data.centre_crop import CentreCrop
from edufast.edge import onnx
from edufast.edge.parity import ExportError, Parity, compare, torch_logits
from edufast.edge.preprocess import check_constants, normalise
from edufast.models.bn_folding import folded_if_traceable
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write, refuse_special_file

_FORMATS = {".onnx": onnx}
_OWN_METADATA = ("classes", "input_size", "preprocessing", "versions")


@dataclass(frozen=True)
class ExportReport:
    """What was written and how well it matches the model.

    Attributes:
        path: the file.
        opset: version of the ONNX operator set in the file.
        bytes: size of the file.
        parity: the comparison with the PyTorch model.
        noise: whether the comparison used random images because no samples were given.
    """

    path: Path
    opset: int
    bytes: int
    parity: Parity
    noise: bool

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types, with the file's name in place of its path."""
        parity = dataclasses.asdict(self.parity)
        parity["accuracy_onnx"] = parity.pop("accuracy_exported")
        return {
            "path": self.path.name,
            "opset": self.opset,
            "bytes": self.bytes,
            "noise": self.noise,
            **parity,
        }


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    input_size: tuple[int, int, int],
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    samples: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    opset: int = 18,
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write ``model`` to ``path`` as one float32 file, and verify it before it appears there.

    With ``mean`` and ``std`` the input is image bytes, uint8 (N, H, W, C), which the file scales
    and normalises itself, and its metadata says how validation cuts and resizes pictures to that
    size; without them it is float32 (N, C, H, W), already normalised. The input is
    called ``image``, the output ``logits``, and the file accepts any batch size N. The exported
    model is in eval mode; ``model`` itself is not changed and may be in any mode, on any device and
    of any dtype.

    Args:
        model: maps float32 images (N, C, H, W) to logits (N, classes).
        path: the file to write; ``.onnx`` is the only format so far.
        input_size: (C, H, W).
        classes: class names in the order of the logits, stored in the file's metadata.
        mean, std: per channel, of pixel / 255.
        samples: N >= 2 images for verification, in the layout of the file's input. None: random
            images, which show that the arithmetic agrees, not that real images are classified the
            same.
        labels: (N,) integers; if given, the accuracies are compared too.
        opset: version of the ONNX operator set. PyTorch writes 18 and converts it to others; it is
            an error if it cannot.
        metadata: more entries for the file's metadata; values other than strings are stored as
            JSON.

    Raises:
        UserError: the suffix names no known format, a package of the ``export`` extra is missing,
            or ``path`` exists and is no regular file.
        ValueError: the arguments do not fit together.
        ExportError: the model cannot be exported, or the file fails verification; ``path`` then
            keeps its old content.
    """
    path = Path(path)
    form = _format(path)
    form.require()
    refuse_special_file(path)
    constants = check_constants(mean, std, input_size[0])
    noise = samples is None
    if samples is None:
        samples = _noise(input_size, uint8=constants is not None)
    samples, labels = _check_samples(samples, labels, input_size, uint8=constants is not None)
    model = _frozen(model)
    expected = _expected(model, samples, constants)
    if classes is not None and len(classes) != expected.shape[1]:
        raise ValueError(
            f"classes: {len(classes)} names for a model with {expected.shape[1]} logits"
        )

    entries = _entries(classes, input_size, constants, form.versions(), metadata or {})
    with atomic_write(path) as temporary:
        form.write(
            folded_if_traceable(model),
            temporary,
            input_size=input_size,
            constants=constants,
            opset=opset,
            metadata=entries,
        )
        parity = compare(expected, form.runner(temporary), samples, labels)
        size = temporary.stat().st_size
    return ExportReport(path, opset, size, parity, noise)


def verify(
    model: nn.Module,
    path: str | os.PathLike[str],
    samples: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Parity:
    """Compare the exported file at ``path`` with ``model`` on N >= 2 images.

    The arguments are those of `export`; ``mean`` and ``std`` as they were when it was exported.

    Raises:
        UserError: there is no such file, or its suffix names no known format.
        ValueError: samples or labels do not fit the model.
        ExportError: agreement is below 0.999 or the accuracies differ.
    """
    path = Path(path)
    form = _format(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    uint8 = mean is not None
    shape = np.shape(samples)[1:]
    if len(shape) != 3:
        raise ValueError(f"samples must be a batch of images, 4 axes, got {np.shape(samples)}")
    input_size = (shape[2], *shape[:2]) if uint8 else shape
    constants = check_constants(mean, std, input_size[0])
    samples, labels = _check_samples(samples, labels, input_size, uint8=uint8)
    expected = _expected(_frozen(model), samples, constants)
    return compare(expected, form.runner(path), samples, labels)


def _format(path: Path) -> ModuleType:
    if path.suffix not in _FORMATS:
        raise UserError(f"cannot export to {path.name}: supported suffixes: {', '.join(_FORMATS)}")
    return _FORMATS[path.suffix]


def _frozen(model: nn.Module) -> nn.Module:
    """A float32 copy on the CPU in eval mode, without torch.compile's wrapper."""
    inner = getattr(model, "_orig_mod", model)
    return copy.deepcopy(inner).to("cpu", torch.float32).eval().requires_grad_(False)


def _expected(
    model: nn.Module, samples: np.ndarray, constants: tuple[list[float], list[float]] | None
) -> np.ndarray:
    images = samples if constants is None else normalise(samples, *constants)
    logits = torch_logits(model, images)
    if logits.ndim != 2:
        raise ValueError(f"model must return logits (N, classes), got shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise ExportError("the model's own logits are not finite: it cannot be exported")
    return logits


def _noise(input_size: tuple[int, int, int], *, uint8: bool) -> np.ndarray:
    channels, height, width = input_size
    generator = np.random.default_rng(0)
    if uint8:
        return generator.integers(0, 256, (64, height, width, channels), dtype=np.uint8)
    return generator.standard_normal((64, channels, height, width), dtype=np.float32)


def _check_samples(
    samples: np.ndarray,
    labels: np.ndarray | None,
    input_size: tuple[int, int, int],
    *,
    uint8: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    samples = np.asarray(samples)
    channels, height, width = input_size
    shape = (height, width, channels) if uint8 else (channels, height, width)
    dtype = np.dtype(np.uint8 if uint8 else np.float32)
    if samples.dtype != dtype or samples.shape[1:] != shape or len(samples) < 2:
        wanted = ", ".join(map(str, shape))
        raise ValueError(
            f"samples must be {dtype} (N >= 2, {wanted}), got {samples.dtype} {samples.shape}"
        )
    if labels is None:
        return samples, None
    labels = np.asarray(labels)
    if labels.shape != samples.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {len(samples)} integers, one for each sample, got {labels.dtype} "
            f"{labels.shape}"
        )
    return samples, labels


def _entries(
    classes: Sequence[str] | None,
    input_size: tuple[int, int, int],
    constants: tuple[list[float], list[float]] | None,
    versions: dict[str, str],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """The file's metadata: what a device needs to know besides the graph."""
    for key in metadata:
        if key in _OWN_METADATA:
            raise ValueError(f"metadata: {key!r} is set by export itself")
    entries: dict[str, Any] = {"input_size": list(input_size), "versions": versions}
    if classes is not None:
        entries["classes"] = list(classes)
    if constants is None:
        entries["preprocessing"] = {"input": "float32 NCHW, normalised by the caller"}
    else:
        mean, std = constants
        entries["preprocessing"] = {
            "input": "uint8 NHWC, done inside",
            "mean": mean,
            "std": std,
            "resize": CentreCrop.to(*input_size[1:]).to_dict(),
        }
    return {**entries, **metadata}
