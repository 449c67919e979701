"""A trained model as it is to be exported, with the images on which its files are compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edufast.data.centre_crop import CentreCrop
from edufast.edge.calibration import check_calibration
from edufast.edge.latency import RUNS
from edufast.edge.parity import ExportError, Images, torch_logits
from edufast.edge.preprocess import (
    Preprocessed,
    check_constants,
    for_channels_last,
    normalise,
)
from edufast.models.bn_folding import folded_if_traceable
from edufast.utils.instances import all_of, check_instance
from edufast.utils.modes import in_eval_mode
from edufast.utils.numbers import whole_number, whole_numbers
from edufast.utils.registry import call_user

Constants = tuple[list[float], list[float]]
_OWN_METADATA = ("classes", "input_size", "preprocessing", "quantisation", "versions")


@dataclass(frozen=True, eq=False)
class Original:
    """The model of an export, checked and frozen.

    Attributes:
        model: on the CPU, float32, in eval mode, its batch norms folded: maps float32 images
            (N, C, H, W), normalised, to logits.
        input_size: (C, H, W).
        constants: mean and standard deviation per channel of pixel / 255; None: the files take
            images that are normalised already.
        samples: N >= 2 images in the layout of the files' input.
        labels: (N,) positions among the logits, or None.
        noise: the samples are random numbers.
        expected: (N, classes) float32, the model's logits for the samples.
        calibration: images in the same layout, or None.
        classes: names in the order of the logits, or None.
        metadata: what every file says besides its graph.
        opset: version of the ONNX operator set, for formats that have one.
    """

    model: nn.Module
    input_size: tuple[int, int, int]
    constants: Constants | None
    samples: Images
    labels: NDArray[np.integer] | None
    noise: bool
    expected: NDArray[np.float32]
    calibration: NDArray[Any] | None
    classes: tuple[str, ...] | None
    metadata: dict[str, Any]
    opset: int

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        input_size: tuple[int, int, int],
        classes: Sequence[str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        samples: Images | None = None,
        labels: NDArray[np.integer] | None = None,
        calibration: NDArray[Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        opset: int = 18,
    ) -> Original:
        """The arguments are those of :func:`edufast.edge.export.export`.

        Raises:
            ValueError: they do not fit together.
            ExportError: the model's logits are not finite.
        """
        check_instance("model", model, nn.Module)
        sizes = whole_numbers("input_size", input_size)
        if len(sizes) != 3:
            raise ValueError(f"input_size is {input_size!r}; expected (C, H, W)")
        input_size = sizes[0], sizes[1], sizes[2]
        classes = None if classes is None else all_of("classes", classes, str)
        constants = check_constants(mean, std, input_size[0])
        opset = whole_number("opset", opset)
        noise = samples is None
        if samples is None:
            samples = _noise(input_size, uint8=constants is not None)
        labels = _check_samples(samples, labels, input_size, uint8=constants is not None)
        if calibration is not None:
            _check_layout("calibration", calibration[:1], input_size, uint8=constants is not None)
            check_calibration(calibration, constants)
        frozen = _frozen(model)
        expected = _expected(frozen, samples, constants)
        count = expected.shape[1]
        if labels is not None and not ((labels >= 0) & (labels < count)).all():
            wrong = labels[(labels < 0) | (labels >= count)][0]
            raise ValueError(f"labels: found {wrong}; expected positions from 0 to {count - 1}")
        if classes is not None and len(set(classes)) != len(classes):
            raise ValueError("classes: a name appears twice; expected another for each class")
        if classes is not None and len(classes) != count:
            raise ValueError(f"classes: {len(classes)} names for a model with {count} logits")
        folded = folded_if_traceable(frozen)
        return cls(
            model=folded if constants is None else for_channels_last(folded, input_size),
            input_size=input_size,
            constants=constants,
            samples=samples,
            labels=labels,
            noise=noise,
            expected=expected,
            calibration=calibration,
            classes=classes,
            metadata=_entries(classes, input_size, constants, metadata or {}),
            opset=opset,
        )

    @property
    def whole(self) -> nn.Module:
        """What files compute: the model with its preprocessing, from images in their layout."""
        if self.constants is None:
            return self.model
        return Preprocessed(self.model, *self.constants).eval()

    @property
    def images(self) -> NDArray[Any]:
        """Some of the samples, to measure how long one takes."""
        return self.samples[:RUNS]

    def prepared(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Images in the layout of the files' input as the model takes them, the caller's to change:
        a model may write into them."""
        return _prepared(images, self.constants)

    def run(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """The model's logits for images in the layout of the files' input, by PyTorch."""
        with torch.inference_mode():
            logits: NDArray[np.float32] = self.model(
                torch.from_numpy(self.prepared(images))
            ).numpy()
        return logits


def _prepared(images: NDArray[Any], constants: Constants | None) -> NDArray[np.float32]:
    return images.copy() if constants is None else normalise(images, *constants)


def _frozen(model: nn.Module) -> nn.Module:
    """A float32 copy on the CPU in eval mode, without torch.compile's wrapper."""
    inner = getattr(model, "_orig_mod", model)
    copied: nn.Module = call_user("model cannot be copied", _copied, inner)
    return in_eval_mode(copied).requires_grad_(False)


def _copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu", torch.float32)


def _expected(
    model: nn.Module, samples: Images, constants: Constants | None
) -> NDArray[np.float32]:
    logits = torch_logits(model, samples, lambda images: _prepared(images, constants))
    if logits.ndim != 2:
        raise ValueError(f"model must return logits (N, classes), got shape {logits.shape}")
    if not np.isfinite(logits).all():
        raise ExportError("the model's own logits are not finite: it cannot be exported")
    return logits


def _noise(input_size: tuple[int, int, int], *, uint8: bool) -> NDArray[Any]:
    channels, height, width = input_size
    generator = np.random.default_rng(0)
    if uint8:
        return generator.integers(0, 256, (64, height, width, channels), dtype=np.uint8)
    return generator.standard_normal((64, channels, height, width), dtype=np.float32)


def _check_layout(
    name: str, images: Any, input_size: tuple[int, int, int], *, uint8: bool, least: int = 1
) -> None:
    channels, height, width = input_size
    shape = (height, width, channels) if uint8 else (channels, height, width)
    dtype = np.dtype(np.uint8 if uint8 else np.float32)
    if images.dtype != dtype or images.shape[1:] != shape or len(images) < least:
        wanted = ", ".join(map(str, shape))
        count = f"N >= {least}" if least > 1 else "N"
        raise ValueError(
            f"{name} must be {dtype} ({count}, {wanted}), got {images.dtype} {images.shape}"
        )


def _check_samples(
    samples: Images,
    labels: NDArray[np.integer] | None,
    input_size: tuple[int, int, int],
    *,
    uint8: bool,
) -> NDArray[np.integer] | None:
    """The labels as an array.

    Raises:
        ValueError: samples or labels have another type or shape.
    """
    first = samples if isinstance(samples, np.ndarray) else samples[:2]
    _check_layout("samples", first, input_size, uint8=uint8, least=2)
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (len(samples),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be {len(samples)} integers, one for each sample, got {labels.dtype} "
            f"{labels.shape}"
        )
    return labels


def _entries(
    classes: Sequence[str] | None,
    input_size: tuple[int, int, int],
    constants: Constants | None,
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """The file's metadata: what a device needs to know besides the graph."""
    for key, value in metadata.items():
        check_instance(f"the key {key!r} of metadata", key, str)
        if key in _OWN_METADATA:
            raise ValueError(f"metadata: {key!r} is set by export itself")
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"metadata[{key!r}] is of type {type(value).__name__}; expected text, or what JSON "
                f"can say: {error}"
            ) from error
    entries: dict[str, Any] = {"input_size": list(input_size)}
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
