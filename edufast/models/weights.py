"""Trained models on disk: safetensors files with everything needed to use them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from edufast.data import DataSet
from edufast.data.class_map import ClassMap
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError, one_line
from edufast.utils.files import atomic_write
from edufast.utils.registry import is_import_path

_KEY = "edufast"


@dataclass(frozen=True)
class ModelInfo:
    """Description of a trained model.

    Attributes:
        model: name for :func:`edufast.models.zoo.create_model`.
        classes: names of the classes, in the order of the logits.
        class_ids: ids of these classes in the data set.
        data: source of the data set.
        image_size: height and width of the images in pixels.
        mean, std: per channel, of pixel / 255.
        accuracy: on the validation split, over these classes.
        training_flops: FLOPs of its training.
        training_seconds: duration of its training.
    """

    model: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    data: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    accuracy: float
    training_flops: int
    training_seconds: float = 0.0

    @property
    def class_map(self) -> ClassMap:
        """Of the model's logits."""
        return ClassMap.of(self.class_ids)

    @classmethod
    def describe(
        cls,
        model: str,
        data: DataSet,
        class_ids: Sequence[int],
        accuracy: float,
        training_flops: int,
        training_seconds: float,
    ) -> ModelInfo:
        """Of a model trained on ``class_ids`` of ``data``."""
        return cls(
            model=model,
            classes=tuple(data.classes[c] for c in class_ids),
            class_ids=tuple(class_ids),
            data=data.name,
            image_size=data.image_size,
            mean=data.mean,
            std=data.std,
            accuracy=accuracy,
            training_flops=training_flops,
            training_seconds=training_seconds,
        )


def save_model(path: str | os.PathLike[str], model: nn.Module, info: ModelInfo) -> None:
    """Write the state dict of ``model`` and ``info`` to a safetensors file."""
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(state, temporary, metadata={_KEY: json.dumps(asdict(info), sort_keys=True)})


def read_info(path: str | os.PathLike[str]) -> ModelInfo:
    """The description in a file, without its weights.

    Raises:
        UserError: the file is missing or was not written by :func:`save_model`.
    """
    return _read(Path(path))[0]


def load_model(
    path: str | os.PathLike[str], *, model: str | None = None
) -> tuple[nn.Module, ModelInfo]:
    """The model in a file, in eval mode on the CPU, and its description.

    Args:
        path: a file of :func:`save_model`.
        model: the model's import path, if it has one. Building such a model runs code, and a file
            may come from anybody: it is not trusted to name that code.

    Raises:
        UserError: the file is missing, damaged, or not written by :func:`save_model`; or its model
            has an import path other than ``model``.
    """
    info, state = _read(Path(path))
    if is_import_path(info.model) and info.model != model:
        raise UserError(
            f"{path} holds a model of {info.model!r}, and building that runs code; expected the "
            "recipe, --model or load_model(model=...) to name the same import path, found "
            f"{model!r}"
        )
    network = create_model(info.model, len(info.classes))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit {info.model}: {one_line(error)}") from error
    return network.eval(), info


def _read(path: Path) -> tuple[ModelInfo, dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"no model at {path}; expected a .safetensors file written by edufast")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {one_line(error)}") from error
    if _KEY not in metadata:
        raise UserError(f"{path} was not written by edufast: it does not say which model it holds")
    fields = json.loads(metadata[_KEY])
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return ModelInfo(**{**fields, **lists}), state
