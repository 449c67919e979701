"""Checkpoints: written atomically, verified by a hash, and never unpickled beyond plain data."""

from __future__ import annotations

import hashlib
import io
import os
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from edufast.utils.errors import LostRank, UserError, one_line
from edufast.utils.files import atomic_write
from edufast.utils.ranks import from_first

_FAMILY = b"EDUFAST"
_MAGIC = _FAMILY + b"4"  # incremented when older checkpoints can no longer be read
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size


class DamagedCheckpoint(UserError):
    """A checkpoint whose content has changed since it was written."""


def save_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, lists and dicts of them) to ``path``.

    A hash goes in front, because torch detects a truncated file but not a flipped bit. The
    previous checkpoint is kept next to it, see :func:`latest_checkpoint`.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getbuffer()
    if path.exists():
        path.replace(_previous(path))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        file.write(_MAGIC)
        file.write(hashlib.sha256(payload).digest())
        file.write(payload)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` wrote, on the CPU.

    Raises:
        UserError: the file is missing, or a checkpoint of another version.
        DamagedCheckpoint: it is damaged, or no checkpoint.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no checkpoint at {file}; expected a file written by a training run")
    data = file.read_bytes()
    if not data.startswith(_FAMILY):
        raise DamagedCheckpoint(f"{file} is not an EduFast checkpoint")
    if not data.startswith(_MAGIC):
        raise UserError(
            f"{file} was written by another version of EduFast: found format "
            f"{data[len(_FAMILY) : len(_MAGIC)].decode(errors='replace')}; expected "
            f"{_MAGIC[len(_FAMILY) :].decode()}. Continue with that version, or start the run again"
        )
    if hashlib.sha256(memoryview(data)[_HEADER:]).digest() != data[len(_MAGIC) : _HEADER]:
        raise DamagedCheckpoint(f"{file} is damaged: its content does not match its hash")
    try:
        state = torch.load(io.BytesIO(data[_HEADER:]), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make torch and pickle run into
        raise DamagedCheckpoint(
            f"{file} holds something else than plain data: {_brief(error)}"
        ) from error
    if not isinstance(state, dict):
        raise DamagedCheckpoint(f"{file} holds no state: found {type(state).__name__}")
    return state


def latest_checkpoint(
    path: str | os.PathLike[str], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The state in ``path`` or, if that is damaged, in the previous checkpoint.

    Args:
        path: of :func:`save_checkpoint`.
        say: gets a line about each damaged file.

    Returns:
        None: there is no intact checkpoint.

    Raises:
        UserError: the checkpoint is of another version.
    """
    for file in (Path(path), _previous(Path(path))):
        if not file.exists():
            continue
        try:
            return load_checkpoint(file)
        except DamagedCheckpoint as error:
            say(f"{error}; going on from the previous checkpoint, or from the beginning")
            # Out of the way: the next save must not put it in the place of the one before.
            file.replace(file.with_suffix(".damaged"))
    return None


def restore(path: Path, load: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> None:
    """Give ``load`` the state of :func:`latest_checkpoint`, if there is one. Of several ranks, the
    first reads it for all.

    Raises:
        UserError: the checkpoint is of another version, or ``load`` cannot take what it holds.
    """
    state = from_first(latest_checkpoint, path, say)
    if state is None:
        return
    try:
        load(state)
    except (UserError, LostRank):
        raise
    except Exception as error:  # a file from outside may hold anything
        raise UserError(
            f"{path} does not fit this training: {_brief(error)}; expected one that this run "
            f"saved. Delete it and {_previous(path).name} to begin again"
        ) from error


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load ``state``, checking shapes and options, which PyTorch does not.

    Raises:
        ValueError: it is of other parameters, or with other options than the optimiser has.
    """
    before = [_options(group) for group in optimizer.param_groups]
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate  # every step sets its own, on the device that it was on
    for old, group in zip(before, optimizer.param_groups, strict=True):
        if (new := _options(group)) != old:
            name = next(n for n in {**old, **new} if old.get(n) != new.get(n))
            raise ValueError(
                f"the optimizer's {name} is {new.get(name)!r}; expected {old.get(name)!r}"
            )
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else None
            if shape is None or shape not in ((), tuple(parameter.shape)):
                raise ValueError(
                    f"the optimizer's {name} is {shape or type(value).__name__}; expected a "
                    f"tensor of shape {tuple(parameter.shape)}"
                )


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What does not change from step to step."""
    return {name: value for name, value in group.items() if name not in ("params", "lr")}


def _brief(error: Exception) -> str:
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return textwrap.shorten(f"{kind}{one_line(error)}", 300, placeholder="…")


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")
