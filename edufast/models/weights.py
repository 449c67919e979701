"""Trained models on disk: safetensors with everything needed to use them again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor, nn

from edufast.data import DataSet
from edufast.data.class_map import ClassMap
from edufast.data.samples import LARGEST_IMAGE
from edufast.models.tensor_file import Fingerprint, open_tensors, read_tensor
from edufast.models.wrappers import unwrapped, wrapper_prefix
from edufast.models.zoo import create_model
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.files import atomic_write
from edufast.utils.modes import in_eval_mode
from edufast.utils.numbers import MOST_CLASSES
from edufast.utils.registry import is_import_path

with needed_for("files of weights", "cli"):
    from pydantic import (
        Field,
        FiniteFloat,
        NonNegativeInt,
        TypeAdapter,
        ValidationError,
    )
    from safetensors.torch import save

INFO = "edufast"  # key of a file's metadata
_HASH = "sha256"  # key of what it says there

# Within what float32 divides by, and what memory holds.
_Deviation = Annotated[float, Field(ge=1e-6, allow_inf_nan=False)]
_ImageSize = Annotated[int, Field(gt=0, le=LARGEST_IMAGE)]
_ClassId = Annotated[int, Field(ge=0, lt=MOST_CLASSES)]


@dataclass(frozen=True)
class ModelInfo:
    """What a file of weights is.

    Attributes:
        model: name for :func:`edufast.models.zoo.create_model`.
        classes: names of the classes, in the order of the logits.
        class_ids: their positions in the data set.
        data: name of the data set.
        image_size: height and width of the images in pixels.
        mean, std: per channel, of pixel / 255.
        accuracy: on the validation split, over these classes.
        training_flops: spent on training it.
        training_seconds: likewise, on the machine that did.
        data_mean: of the images that it was trained on, where these were not normalised by their
            own mean and std, but as the weights wanted that it started from.

    Raises:
        ValueError: classes and their ids do not go together.
    """

    model: str
    classes: tuple[str, ...]
    class_ids: tuple[_ClassId, ...]
    data: str
    image_size: _ImageSize
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[_Deviation, _Deviation, _Deviation]
    accuracy: float
    training_flops: NonNegativeInt
    training_seconds: float = 0.0
    data_mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] | None = None

    def __post_init__(self) -> None:
        if not len(self.classes) == len(self.class_ids) == len(set(self.class_ids)) > 0:
            raise ValueError(
                f"class_ids are {self.class_ids}; expected another one for each of the "
                f"{len(self.classes)} classes"
            )

    def to_json(self, tensors: Fingerprint) -> str:
        """As a file says it, with a hash of this and of the file's tensors."""
        said = asdict(self)
        return json.dumps({**said, _HASH: _hash(said, tensors)}, sort_keys=True)

    @property
    def data_title(self) -> str:
        """``data`` for other people: without the folders of this machine."""
        kind, colon, path = self.data.partition(":")
        if not colon or "/" in kind:
            return Path(self.data).name
        return f"{kind}:{Path(path).name}"

    @classmethod
    def from_json(cls, text: str, path: Path) -> ModelInfo:
        """As the file at ``path`` says it.

        Raises:
            UserError: it makes no sense.
        """
        try:
            info: ModelInfo = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = "".join(f"{key}: " for key in first["loc"][:1])
            message = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{path} describes its model wrongly: {where}{message}") from error
        return info

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
        """Of a model that was trained on ``data`` to know ``class_ids``."""
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
    """Write the state dict of ``model`` and ``info`` to a safetensors file.

    Tied tensors are written once, under their first name. The file says a hash of all it holds.

    Raises:
        UserError: the state holds something else than tensors with values.
        OSError: the file cannot be written, for instance because the disk is full.
    """
    state = _state(unwrapped(model))
    _write(path, state, {INFO: info.to_json(Fingerprint(state))})


def save_weights(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Write the state dict of ``model`` to a safetensors file for other programs.

    Raises:
        UserError, OSError: as :func:`save_model`.
    """
    _write(path, _state(unwrapped(model)), {"format": "pt"})


def _write(
    path: str | os.PathLike[str], state: dict[str, Tensor], metadata: dict[str, str]
) -> None:
    with atomic_write(path) as temporary:
        # Not save_file, whose errors of the disk are none of Python's.
        temporary.write_bytes(save(state, metadata))


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Tensors on the CPU, none of which shares memory with another."""
    state: dict[str, Tensor] = {}
    written: set[int] = set()  # tensors
    memory: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise UserError(
                f"{name!r} of {type(model).__name__} is a {type(tensor).__name__}; expected a "
                "state of tensors only"
            )
        if tensor.is_meta:
            raise UserError(
                f"{name!r} of {type(model).__name__} is on meta; expected a tensor with values"
            )
        if id(tensor) not in written:
            written.add(id(tensor))
            copied = tensor.detach().cpu().contiguous()
            place = copied.untyped_storage().data_ptr()
            state[name] = copied.clone() if place in memory else copied
            memory.add(place)
    return state


def read_info(path: str | os.PathLike[str]) -> ModelInfo:
    """What the file holds, without its weights.

    Raises:
        UserError: the file is missing, damaged, or was not written by :func:`save_model`.
    """
    return read_weights(Path(path))[0]


def load_model(
    path: str | os.PathLike[str], *, model: str | None = None
) -> tuple[nn.Module, ModelInfo]:
    """The model of a file, in eval mode on the CPU, and what it is.

    Files from versions that wrote no hash are accepted without one.

    Args:
        path: a file of :func:`save_model`.
        model: the model's import path, if it has one. Files may come from anybody, and building a
            model by its import path runs code: a file's word is not enough for that.

    Raises:
        UserError: the file is missing, damaged, or not written by :func:`save_model`; or its model
            has an import path other than ``model``.
    """
    info, state = read_weights(Path(path))
    if is_import_path(info.model) and info.model != model:
        raise UserError(
            f"{path} holds a model of {info.model!r}, and building that runs code; expected the "
            "recipe, --model or load_model(model=...) to name the same import path, found "
            f"{model!r}"
        )
    network = create_model(info.model, len(info.classes))
    misfit = _load(network, state)
    if misfit:
        raise UserError(f"{path} does not fit {info.model}: {misfit}")
    return in_eval_mode(network), info


def _load(network: nn.Module, state: dict[str, Tensor]) -> str:
    """Load ``state`` and return the first thing that does not fit, or nothing.

    A tensor that is missing may be tied to one that is there; wrappers' prefixes are taken off.
    """
    own: dict[str, Tensor] = network.state_dict(keep_vars=True)
    if not state.keys() <= own.keys():
        prefix = wrapper_prefix(state)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    there = {id(own[name]) for name in state if name in own}
    for name in {**own, **state}:
        if name not in own:
            return f"it has a tensor {name!r}, which the model does not have"
        if name not in state:
            if id(own[name]) not in there:
                return f"it has no tensor {name!r}"
        elif own[name].shape != state[name].shape:
            found, expected = tuple(state[name].shape), tuple(own[name].shape)
            return f"{name!r} has the shape {found}; expected {expected}"
    network.load_state_dict(state, strict=False)
    return ""


def read_weights(path: Path) -> tuple[ModelInfo, dict[str, Tensor]]:
    """What the file holds, and its state dict.

    Raises:
        UserError: as :func:`read_info`.
    """
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
        state = {name: read_tensor(file, name, path) for name in file.keys()}  # noqa: SIM118
    if INFO not in metadata:
        raise UserError(
            f"{path} was not written by edufast: it does not say which model it holds; it can "
            "still be used to start a training"
        )
    info = ModelInfo.from_json(metadata[INFO], path)
    check_hash(metadata[INFO], Fingerprint(state), path)
    return info, state


def check_hash(text: str, tensors: Fingerprint, path: Path) -> None:
    """Compare the hash in what the file at ``path`` says, if there is one, with what it holds.

    Raises:
        UserError: they differ.
    """
    said = json.loads(text)
    if said.pop(_HASH, None) not in (None, _hash(said, tensors)):
        raise UserError(f"{path} is damaged: its content does not match its hash")


def _hash(said: dict[str, Any], tensors: Fingerprint) -> str:
    return tensors.hexdigest(json.dumps(said, sort_keys=True))
