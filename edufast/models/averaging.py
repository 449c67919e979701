"""Averaging models over time (exponential moving average) and over files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from edufast.ops import MergePlan, merge_
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write

# --- exponential moving average ---------------------------------------------------------------


class ExponentialMovingAverage:
    """A moving average of a model: ``decay * average + (1 - decay) * model`` after every step.

    Running statistics of batch normalisation are averaged like parameters, not pooled: they belong
    to one model, whose change between steps is not variance of the data. Integer buffers are
    copied. The average starts as the model; each tensor keeps its dtype, device and layout.

    Args:
        model: must keep the names and shapes of its parameters and buffers, not their memory.
        decay: in [0, 1).

    Attributes:
        averages: name -> tensor, of parameters and buffers; tied ones appear once.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = _check_decay(decay)
        self._model = model
        self.averages = {name: t.detach().clone() for name, t in _tensors(model)}
        tensors = [t for _, t in _tensors(model)]
        self._step = MergePlan(list(self.averages.values()), tensors)

    @torch.no_grad()
    def update(self, decay: float | None = None) -> None:
        """Update the average; ``decay`` is for this step only, for instance to warm up."""
        self._step(keep=self.decay if decay is None else _check_decay(decay))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model with the same names and shapes."""
        tensors = dict(_tensors(model))
        _check_names(tensors, self.averages, "model")
        merge_([tensors[name] for name in self.averages], list(self.averages.values()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the average within the block; afterwards it is restored."""
        tensors = [t for _, t in _tensors(self._model)]
        before = [t.detach().clone() for t in tensors]
        self.copy_to(self._model)
        try:
            yield
        finally:
            with torch.no_grad():
                merge_(tensors, before)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are not copied."""
        return {"decay": self.decay, "averages": dict(self.averages)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            ValueError: names or shapes differ from those of the model.
        """
        averages = state["averages"]
        _check_names(averages, self.averages, "state")
        sources = [averages[name].to(t.device) for name, t in self.averages.items()]
        merge_(list(self.averages.values()), sources)
        self.decay = _check_decay(state["decay"])


def _check_decay(decay: float) -> float:
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected a number in [0, 1)")
    return decay


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _check_names(got: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    different = sorted(got.keys() ^ expected.keys())
    if different:
        name = different[0]
        raise ValueError(f"{what} {'has' if name in got else 'lacks'} {name!r}; expected {what} "
                         f"with the {len(expected)} tensors of the average")  # fmt: skip


# --- averaging files --------------------------------------------------------------------------

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: list[int]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype].itemsize


def average_files(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
    *,
    on_tensor: Callable[[str, int], None] | None = None,
) -> None:
    """Average models of one architecture, trained in parallel, into one safetensors file.

    One tensor of each file is in memory at a time, two for running statistics. These
    (``running_mean``, ``running_var``) become the moments of the pooled data, see
    :func:`edufast.ops.merge_`; of integers the largest is kept. Models trained from different
    initial values have no meaningful average: start them from a common one.

    Metadata is kept if all files agree on it. For models written by edufast the training cost is
    summed, and the accuracy becomes NaN, since it has to be measured.

    Args:
        paths: at least one file; names, shapes and dtypes must agree.
        out: written completely or not at all; may be one of ``paths``.
        weights: one for each file, at least 0, for instance numbers of samples; scaled to sum to 1.
            None: equal.
        on_tensor: called with the name and the size in bytes of each tensor written.

    Raises:
        UserError: a file is missing, damaged, or does not match the first; the message names the
            file and the tensor. Or ``out`` is a folder.
    """
    files = [Path(path) for path in paths]
    shares = _shares(files, weights)
    if Path(out).is_dir():
        raise UserError(f"{out} is a folder; expected a file to write")
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(path)) for path in files]
        entries = _entries(files, opened)
        header: dict[str, Any] = {}
        metadata = _common_metadata(files, opened)
        if metadata:
            header["__metadata__"] = metadata
        offset = 0
        for entry in entries:
            end = offset + entry.bytes
            header[entry.name] = {
                "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [offset, end],
            }  # fmt: skip
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with atomic_write(out) as temporary, open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for entry in entries:
                file.write(_raw(_average(files, opened, entry, header, shares)))
                if on_tensor is not None:
                    on_tensor(entry.name, entry.bytes)


def _shares(files: Sequence[Path], weights: Sequence[float] | None) -> list[float]:
    if not files:
        raise UserError("there are no files to merge; expected at least one")
    given = [1.0] * len(files) if weights is None else [float(w) for w in weights]
    total = sum(given)
    if len(given) != len(files) or min(given) < 0 or not 0 < total < math.inf:
        raise UserError(
            f"weights are {given}; expected {len(files)} numbers, at least 0 and not all 0"
        )
    return [w / total for w in given]


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"no model at {path}; expected a .safetensors file")
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    with file as opened:
        yield opened


def _entries(files: Sequence[Path], opened: Sequence[Any]) -> list[_Entry]:
    """The first file's tensors, the widest dtype first, so that each is aligned."""
    found = []
    for file in opened:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found.append({n: _Entry(n, s.get_dtype(), s.get_shape()) for n, s in slices.items()})
    first = found[0]
    for path, other in zip(files, found, strict=True):
        for name in sorted(first.keys() | other.keys()):
            if name not in other or name not in first:
                has, lacks = (path, files[0]) if name in other else (files[0], path)
                raise UserError(f"{has} has a tensor {name!r}, but {lacks} does not")
            entry, others = first[name], other[name]
            if others != entry:
                raise UserError(
                    f"{name!r} is {entry.dtype} {entry.shape} in {files[0]}, but {others.dtype} "
                    f"{others.shape} in {path}"
                )
            if entry.dtype not in _DTYPES:
                raise UserError(
                    f"{name!r} of {files[0]} has dtype {entry.dtype}; expected one of "
                    f"{', '.join(_DTYPES)}"
                )
    return sorted(first.values(), key=lambda entry: (-_DTYPES[entry.dtype].itemsize, entry.name))


def _average(
    files: Sequence[Path],
    opened: Sequence[Any],
    entry: _Entry,
    names: dict[str, Any],
    shares: list[float],
) -> Tensor:
    read = [entry.name]
    stem, _, last = entry.name.rpartition(".")
    if last == "running_var":
        mean = f"{stem}.running_mean" if stem else "running_mean"
        if mean in names and names[mean]["shape"] == entry.shape:
            read.append(mean)
    lists = []
    for path, file in zip(files, opened, strict=True):
        try:
            lists.append([file.get_tensor(name) for name in read])
        except SafetensorError as error:
            raise UserError(f"{entry.name!r} of {path} cannot be read: {error}") from error
    targets = [torch.empty_like(tensor) for tensor in lists[0]]
    merge_(targets, lists, shares, moments=[(1, 0)] if len(read) == 2 else ())
    return targets[0]


def _raw(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _common_metadata(files: Sequence[Path], opened: Sequence[Any]) -> dict[str, str]:
    found = [file.metadata() or {} for file in opened]
    common = {k: v for k, v in found[0].items() if all(m.get(k) == v for m in found)}
    if all("edufast" in metadata for metadata in found) and len(found) > 1:
        infos = [json.loads(metadata["edufast"]) for metadata in found]
        merged = {
            **infos[0],
            "accuracy": math.nan,
            "training_flops": sum(info["training_flops"] for info in infos),
        }
        for path, info in zip(files, infos, strict=True):
            for key in merged.keys() - {"accuracy", "training_flops"}:
                if info.get(key) != merged[key]:
                    raise UserError(
                        f"{key} is {merged[key]!r} in {files[0]}, but {info.get(key)!r} in {path}"
                    )
        common["edufast"] = json.dumps(merged, sort_keys=True)
    return common
