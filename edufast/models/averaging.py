"""Averaging models: over time (exponential moving average) and over files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from edufast.models.tensor_file import Fingerprint, open_tensors, raw_bytes, read_tensor
from edufast.models.weights import INFO, ModelInfo, check_hash
from edufast.models.wrappers import unwrapped, wrapper_prefix
from edufast.ops import MergePlan, merge_
from edufast.utils.errors import UserError
from edufast.utils.files import atomic_write, refuse_special_file

# --- exponential moving average ---------------------------------------------------------------


class ExponentialMovingAverage:
    """A moving average of a model: ``decay * average + (1 - decay) * now`` after every step.

    Running statistics of batch normalisation are averaged like parameters, not pooled: they follow
    one model, and its drift between steps is no spread of the data. Integer buffers are copied.
    The average starts as the model, each tensor on its device and in its layout. Averages of
    bfloat16 and float16 are float32, twice the memory of what they follow: at a decay of 0.999 a
    step is too small for them to move.

    Args:
        model: must keep its parameters and buffers (their memory may change); what torch.compile or
            data parallelism wrapped around it is looked through.
        decay: in [0, 1).

    Attributes:
        averages: name -> tensor, parameters and buffers, tied ones once.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = _check_decay(decay)
        self._model = unwrapped(model)
        tensors = dict(_tensors(self._model))
        self.averages = {name: _precise(t) for name, t in tensors.items()}
        self._step = MergePlan(list(self.averages.values()), list(tensors.values()))

    @torch.no_grad()
    def update(self, decay: float | None = None) -> None:
        """Update the average with the model as it is now; ``decay`` is for this step only, for
        instance to warm up."""
        self._step(keep=self.decay if decay is None else _check_decay(decay))

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Write the average into a model of the same names and shapes, in that model's types.

        Raises:
            ValueError: names or shapes are others.
        """
        tensors = dict(_tensors(unwrapped(model)))
        _check_tensors(tensors, self.averages, "model")
        merge_([tensors[name] for name in self.averages], list(self.averages.values()))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model is the average; afterwards it is what it was."""
        tensors = [t for _, t in _tensors(self._model)]
        before = [t.detach().clone() for t in tensors]
        self.copy_to(self._model)
        try:
            yield
        finally:
            with torch.no_grad():
                merge_(tensors, before)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; tensors are not copied."""
        return {"decay": self.decay, "averages": dict(self.averages)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`, perhaps of a wrapped model or in another type.

        Raises:
            ValueError: names or shapes are not those of the model.
        """
        averages: dict[str, Tensor] = state["averages"]
        if averages.keys() != self.averages.keys():
            prefix = wrapper_prefix(averages)
            averages = {name.removeprefix(prefix): t for name, t in averages.items()}
        _check_tensors(averages, self.averages, "state")
        sources = [averages[name].to(t.device) for name, t in self.averages.items()]
        merge_(list(self.averages.values()), sources)
        self.decay = _check_decay(state["decay"])


def _precise(tensor: Tensor) -> Tensor:
    """A copy, in float32 where that holds more."""
    coarse = tensor.is_floating_point() and tensor.itemsize < torch.float32.itemsize
    return tensor.detach().to(torch.float32 if coarse else tensor.dtype, copy=True)


def _check_decay(decay: float) -> float:
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected a number in [0, 1)")
    return decay


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _check_tensors(got: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    different = sorted(got.keys() ^ expected.keys())
    if different:
        name = different[0]
        raise ValueError(f"{what} {'has' if name in got else 'lacks'} {name!r}; expected {what} "
                         f"with the {len(expected)} tensors of the average")  # fmt: skip
    for name, tensor in got.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"{what} has {name!r} of shape {tuple(tensor.shape)}; expected "
                             f"{tuple(expected[name].shape)}")  # fmt: skip


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


class _Source(NamedTuple):
    """One of the files: opened, what its names begin with beyond the others', and its hash."""

    path: Path
    file: Any
    prefix: str
    fingerprint: Fingerprint

    @property
    def metadata(self) -> dict[str, str]:
        return self.file.metadata() or {}

    def entries(self) -> dict[str, _Entry]:
        found = {}
        for name in self.file.keys():  # noqa: SIM118
            tensor = self.file.get_slice(name)
            own = name.removeprefix(self.prefix)
            found[own] = _Entry(own, tensor.get_dtype(), tensor.get_shape())
        return found

    def tensor(self, name: str) -> Tensor:
        return read_tensor(self.file, self.prefix + name, self.path)


# What two trainings of one model need not agree on.
_OF_ONE_TRAINING = {"accuracy", "training_flops", "training_seconds"}


def average_files(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
) -> None:
    """Average models of one architecture, trained in parallel, into one safetensors file.

    Streams: of each file one tensor is held at a time, two for running statistics. These
    (``running_mean``, ``running_var``) become the moments of the pooled data, see
    :func:`edufast.ops.merge_`; integers become the largest. Weights that were trained apart from
    different initial values have no meaningful average: start them from a common model.

    Args:
        paths: at least one file; names, shapes and dtypes must agree.
        out: written at once or not at all; may be one of ``paths``.
        weights: one for each file, at least 0, for instance numbers of samples; scaled to sum to 1.
            None: equal.

    What the files say about themselves is kept where they agree. Of models written by edufast the
    training cost is summed, the accuracy becomes NaN, for it has to be measured, and hashes are
    checked and written. Prefixes that ``torch.compile`` and data parallelism leave in the names are
    taken off where only some of the files have them.

    Raises:
        UserError: a file is missing, damaged, or does not fit the first; the message names the
            file and the tensor. Or ``out`` exists and is not a regular file.
    """
    files = [Path(path) for path in paths]
    shares = _shares(files, weights)
    refuse_special_file(out)
    with ExitStack() as stack:
        sources = _sources(files, [stack.enter_context(open_tensors(path)) for path in files])
        entries, info = _entries(sources), _merged_info(sources)
        fingerprint = Fingerprint()
        with atomic_write(out) as temporary, open(temporary, "wb") as file:
            file.write(_header(entries, sources, info, fingerprint))
            for entry in entries.values():
                # Nothing holds the average on while the next one is formed.
                _write(file, fingerprint, entry.name, _average(sources, entry, entries, shares))
            for source in sources:
                if INFO in source.metadata:
                    check_hash(source.metadata[INFO], source.fingerprint, source.path)
            file.seek(0)  # as long as before, now with the right hash
            file.write(_header(entries, sources, info, fingerprint))


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


def _sources(files: Sequence[Path], opened: Sequence[Any]) -> list[_Source]:
    names = [set(file.keys()) for file in opened]
    differ = any(other != names[0] for other in names)
    return [
        _Source(path, file, wrapper_prefix(own) if differ else "", Fingerprint())
        for path, file, own in zip(files, opened, names, strict=True)
    ]


def _entries(sources: Sequence[_Source]) -> dict[str, _Entry]:
    """The first file's tensors, those of the widest type first: so every one is aligned."""
    files = [source.path for source in sources]
    found = [source.entries() for source in sources]
    first = found[0]
    for path, other in zip(files, found, strict=True):
        for name in sorted(first.keys() | other.keys()):
            if name not in other or name not in first:
                has, lacks = (path, files[0]) if name in other else (files[0], path)
                raise UserError(f"{has} has a tensor {name!r}, but {lacks} does not")
            mine, yours = first[name], other[name]
            if mine != yours:
                raise UserError(
                    f"{name!r} is {mine.dtype} {mine.shape} in {files[0]}, but {yours.dtype} "
                    f"{yours.shape} in {path}"
                )
            if mine.dtype not in _DTYPES:
                raise UserError(
                    f"{name!r} of {files[0]} has dtype {mine.dtype}, which cannot be merged"
                )
    order = sorted(first.values(), key=lambda e: (-_DTYPES[e.dtype].itemsize, e.name))
    return {entry.name: entry for entry in order}


def _header(
    entries: Mapping[str, _Entry],
    sources: Sequence[_Source],
    info: ModelInfo | None,
    tensors: Fingerprint,
) -> bytes:
    """What precedes the tensors: the length of a JSON text, and this."""
    found = [source.metadata for source in sources]
    metadata = {k: v for k, v in found[0].items() if all(m.get(k) == v for m in found)}
    if info is not None:
        metadata[INFO] = info.to_json(tensors)
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for entry in entries.values():
        end = offset + entry.bytes
        header[entry.name] = {
            "dtype": entry.dtype, "shape": entry.shape, "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _average(
    sources: Sequence[_Source],
    entry: _Entry,
    entries: Mapping[str, _Entry],
    shares: Sequence[float],
) -> Tensor:
    read = [entry.name]
    stem, _, last = entry.name.rpartition(".")
    if last == "running_var":
        mean = f"{stem}.running_mean" if stem else "running_mean"
        if mean in entries and entries[mean].shape == entry.shape:
            read.append(mean)
    lists = []
    for source in sources:
        lists.append([source.tensor(name) for name in read])
        source.fingerprint.add(source.prefix + entry.name, lists[-1][0])
    targets = [torch.empty_like(tensor) for tensor in lists[0]]
    merge_(targets, lists, shares, moments=[(1, 0)] if len(read) == 2 else ())
    return targets[0]


def _write(file: BinaryIO, fingerprint: Fingerprint, name: str, tensor: Tensor) -> None:
    fingerprint.add(name, tensor)
    file.write(raw_bytes(tensor))


def _merged_info(sources: Sequence[_Source]) -> ModelInfo | None:
    """What the average of models written by edufast is; None: some were not."""
    if not all(INFO in source.metadata for source in sources):
        return None
    infos = [ModelInfo.from_json(source.metadata[INFO], source.path) for source in sources]
    if len(infos) == 1:
        return infos[0]
    for source, info in zip(sources, infos, strict=True):
        for field in fields(info):
            mine, theirs = getattr(infos[0], field.name), getattr(info, field.name)
            if field.name not in _OF_ONE_TRAINING and mine != theirs:
                raise UserError(
                    f"{field.name} is {mine!r} in {sources[0].path}, but {theirs!r} in "
                    f"{source.path}"
                )
    return replace(
        infos[0],
        accuracy=math.nan,
        training_flops=sum(info.training_flops for info in infos),
        training_seconds=sum(info.training_seconds for info in infos),
    )
