"""Networks that start from trained weights: published ones, or those of a file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edufast.data import DataSet
from edufast.models.image_format import ImageFormat, processor_format, timm_format
from edufast.models.tensor_file import open_tensors, read_tensor
from edufast.models.weights import INFO, read_weights
from edufast.models.wrappers import wrapper_prefix
from edufast.models.zoo import Logits, create_model, import_library
from edufast.utils.choices import Weights
from edufast.utils.errors import UserError, one_line
from edufast.utils.hub import from_hub, from_server

# Under which training scripts keep the state dict in a checkpoint, beside the optimiser's.
_KEYS = ("state_dict", "model", "model_state_dict")
_COUNTER = "num_batches_tracked"  # which files from before torch 1.0 lack; nothing depends on it


class Start(NamedTuple):
    """A network before it is trained.

    Attributes:
        model: with a head for the classes that it will learn.
        learned: names of its parameters that were trained already.
        images: that they learned from; None: those of the data at hand.
        summary: what was read, in words.
    """

    model: nn.Module
    learned: frozenset[str] = frozenset()
    images: ImageFormat | None = None
    summary: str = ""

    def shown(self, data: DataSet) -> DataSet:
        """``data``, normalised as the network expects it."""
        if self.images is None:
            return data
        return replace(data, mean=self.images.mean, std=self.images.std)


def started(name: str, num_classes: int, weights: Weights | None) -> Start:
    """The network ``name`` for ``num_classes`` classes, with trained weights.

    Where these are of another number of classes, the classifier stays random.

    Args:
        name: see :func:`edufast.models.zoo.create_model`.
        num_classes: width of the logits.
        weights: "pretrained": what the publisher of the model offers, downloaded unless it is on
            this machine. A path: a file of :func:`edufast.models.weights.save_model`, or a state
            dict, or a checkpoint with one, in a file of safetensors or of torch.save, from which
            nothing but tensors and plain data is unpickled. None: random weights.

    Raises:
        UserError: there are no such weights, no network, or they do not fit the model.
    """
    if weights is None:
        return Start(create_model(name, num_classes))
    if weights == "pretrained":
        state, images = _published(name)
        source = f"the published weights of {name}"
    else:
        state, images = _from_file(name, weights)
        source = str(weights)
    model = create_model(name, num_classes)
    if images is None:
        images = _usual_images(name, model)
    replaced = _load(name, model, state, num_classes, source)
    learned = frozenset(n for n, _ in model.named_parameters() if n not in replaced)
    summary = f"{name} starts from {source}"
    if replaced:
        widths = [len(state[n]) for n in replaced if n in state]
        lost = f"head of {widths[0]:,} classes" if widths else "missing head"
        summary += f"; its {lost} is replaced by one of {num_classes:,}"
    if images is not None and images.size is not None:
        summary += f"; it was trained on images of {images.size} pixels"
    return Start(model, learned, images, summary)


# --- published -----------------------------------------------------------------------------------


def _published(name: str) -> tuple[dict[str, Tensor], ImageFormat | None]:
    """The state of the published model, and the images that it learned from."""
    library, _, entry = name.partition("/")
    if library not in _PUBLISHERS:
        raise _unpublished(name)
    return _PUBLISHERS[library](name, entry)


def _timm(name: str, entry: str) -> tuple[dict[str, Tensor], ImageFormat]:
    timm = import_library("timm")
    create_model(name, 1)  # which knows the names
    if not timm.models.is_model_pretrained(entry):
        raise _unpublished(name)
    with from_hub(f"the weights of {name}"):
        model = timm.create_model(entry, pretrained=True)
    return model.state_dict(), timm_format(model)


def _torchvision(name: str, entry: str) -> tuple[dict[str, Tensor], ImageFormat]:
    create_model(name, 1)
    offered = import_library("torchvision").models.get_model_weights(entry)
    if not len(offered):
        raise _unpublished(name)
    weights = offered.DEFAULT
    there = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name).is_file()
    with nullcontext() if there else from_server(f"the weights of {name}", weights.url):
        state = weights.get_state_dict(check_hash=True, weights_only=True)
    return state, _torchvision_format(weights)


def _hugging_face(name: str, entry: str) -> tuple[dict[str, Tensor], ImageFormat]:
    transformers = import_library("transformers")
    if "/" not in entry:
        raise _unpublished(name)
    with from_hub(f"the weights of {name}"):
        model = transformers.AutoModelForImageClassification.from_pretrained(
            entry, trust_remote_code=False
        )
        processor = transformers.AutoImageProcessor.from_pretrained(entry, trust_remote_code=False)
    return model.state_dict(), processor_format(processor)


def _unpublished(name: str) -> UserError:
    return UserError(
        f"weights: there are none published of {name!r}; expected the path of a file, or a model "
        "timm/<name>, torchvision/<name> or hf/<owner>/<name> that has some"
    )


_PUBLISHERS: dict[str, Callable[[str, str], tuple[dict[str, Tensor], ImageFormat]]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "hf": _hugging_face,
}


def _usual_images(name: str, model: nn.Module) -> ImageFormat | None:
    """What the published weights of the model learned from; files of weights hardly ever say."""
    library, _, entry = name.partition("/")
    if library == "timm":
        return timm_format(model)
    if library == "torchvision":
        weights = import_library("torchvision").models.get_model_weights(entry)
        return _torchvision_format(weights.DEFAULT) if len(weights) else None
    return None


def _torchvision_format(weights: Any) -> ImageFormat:
    view = weights.transforms()
    return ImageFormat.of(view.mean, view.std, view.crop_size[-1])


# --- files ---------------------------------------------------------------------------------------


def _from_file(name: str, path: Path) -> tuple[dict[str, Tensor], ImageFormat | None]:
    """The state that the file holds, and the images that it says its model learned from."""
    if zipfile.is_zipfile(path) or path.suffix in (".pt", ".pth", ".bin"):
        return _unpickled(path), None
    with open_tensors(path) as file:
        if INFO not in (file.metadata() or {}):
            # safetensors' keys() is no dictionary's.
            return {key: read_tensor(file, key, path) for key in file.keys()}, None  # noqa: SIM118
    info, state = read_weights(path)
    if info.model != name:
        raise UserError(f"{path} holds the weights of {info.model}; expected those of {name}")
    return state, ImageFormat.of(info.mean, info.std, info.image_size)


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Of a file of torch.save, of which no code is run."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make torch and pickle run into
        reason = one_line(error).partition(". ")[0] or type(error).__name__
        raise UserError(f"{path} is not a file of tensors and plain data: {reason}") from error
    nested = (found[key] for key in _KEYS if key in found) if isinstance(found, Mapping) else ()
    state = next((inner for inner in nested if isinstance(inner, Mapping)), found)
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path} holds no state dict; expected one, or one under {_KEYS[0]!r}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{path}: {key!r} is a {type(value).__name__}; expected a state dict of tensors"
            )
        if not isinstance(key, str):
            raise UserError(f"{path}: a tensor is called {key!r}; expected names")
    return dict(state)


# --- fitting -------------------------------------------------------------------------------------


def _load(
    model_name: str, model: nn.Module, state: dict[str, Tensor], num_classes: int, source: str
) -> frozenset[str]:
    """Load ``state``, renamed in place as the model names its tensors, but for the classifier of
    another number of classes; returns the names of its tensors."""
    own: dict[str, Tensor] = model.state_dict(keep_vars=True)
    _rename(state, own, "model." if isinstance(model, Logits) else "")
    for name in state:
        if name not in own:
            raise UserError(f"{source}: there is a tensor {name!r}, which the model does not have")
        _check_tensor(f"{source}: {name!r}", state[name], own[name])
    tied = {id(own[name]) for name in state}
    replaced = [
        name
        for name, tensor in own.items()
        if (name in state and state[name].shape != tensor.shape)
        or (name not in state and id(tensor) not in tied and not name.endswith(_COUNTER))
    ]
    classifiers = _classifiers(model_name, own, num_classes) if replaced else set()
    for name in replaced:
        found = tuple(state[name].shape) if name in state else None
        expected = tuple(own[name].shape)
        if name not in classifiers or (found and found[1:] != expected[1:]):
            what = "there is none" if found is None else f"it has the shape {found}"
            raise UserError(f"{source} does not fit: {name!r}: {what}; expected {expected}")
    kept = {name: tensor for name, tensor in state.items() if name not in replaced}
    model.load_state_dict(kept, strict=False)
    return frozenset(replaced)


def _check_tensor(what: str, tensor: Tensor, own: Tensor) -> None:
    """Check that ``own`` can take the numbers of ``tensor``."""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on {tensor.device}"
        raise UserError(f"{what} is {kind}; expected a dense tensor")
    if tensor.is_complex() or (own.is_floating_point() and not tensor.is_floating_point()):
        raise UserError(f"{what} has dtype {tensor.dtype}; expected numbers for a {own.dtype}")
    if tensor.is_floating_point() and tensor.float().isnan().any():
        raise UserError(f"{what} holds NaN; expected numbers")


def _classifiers(name: str, own: Mapping[str, Tensor], num_classes: int) -> set[str]:
    """Names of the tensors whose shape depends on the number of classes: others may be as long as
    there are classes, by chance."""
    with torch.random.fork_rng(devices=[]):
        other = create_model(name, num_classes + 1).state_dict()
    return {name for name, tensor in own.items() if tensor.shape != other[name].shape}


def _rename(state: dict[str, Tensor], own: Mapping[str, Tensor], prefix: str) -> None:
    """Remove the prefixes of other wrappers from the names, and add that of ours."""
    if state.keys() <= own.keys():
        return
    wrapped = wrapper_prefix(state)
    for name in list(state):
        state[prefix + name.removeprefix(wrapped)] = state.pop(name)
