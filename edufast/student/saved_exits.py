"""The exits of a finished student on disk, beside the file of its graduate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edufast.models.tensor_file import Fingerprint, open_tensors, read_tensor
from edufast.student.student import Student
from edufast.utils.errors import UserError
from edufast.utils.extras import needed_for
from edufast.utils.files import atomic_write

with needed_for("files of weights", "cli"):
    from safetensors.torch import save

_KEY, _HASH = "exits", "sha256"  # of the file's metadata


def save_exits(path: Path, student: Student, graduate: nn.Module) -> None:
    """Write the heads of ``student``'s exits, their rows in the order of class ids.

    Args:
        graduate: ``student.graduate()``, to which the heads belong.
    """
    order = torch.tensor(student.columns_by_id)
    state = {
        name: (tensor[order] if ".linear." in name else tensor).contiguous()
        for name, tensor in ((n, t.detach().cpu()) for n, t in student.exits.state_dict().items())
    }
    said = {
        "cuts": [fragment.name for fragment in student.fragments[:-1]],
        "depths": student.depths[:-1],
        "head": student.head_kind,
        "head_width": student.head_width,
        "graduate": Fingerprint(graduate.state_dict()).hexdigest(),
    }
    text = json.dumps(said, sort_keys=True)
    metadata = {_KEY: text, _HASH: Fingerprint(state).hexdigest(text)}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, metadata))


def load_exits(path: Path, graduate: nn.Module, input_size: Sequence[int]) -> Student:
    """The finished student in eval mode, its classes in the order of their ids.

    Args:
        path: a file of :func:`save_exits`.
        graduate: as it was saved; becomes the student's model.

    Raises:
        UserError: the file is missing or damaged, or belongs to another graduate.
    """
    said, state = _read(path)
    if said["graduate"] != Fingerprint(graduate.state_dict()).hexdigest():
        raise UserError(f"{path} has the exits of another student than the one beside it")
    student = Student(
        graduate,
        len(said["cuts"]) + 1,
        input_size=tuple(input_size),
        cuts=said["cuts"],
        head=said["head"],
        head_width=said["head_width"],
    )
    for depth in (*said["depths"], len(student.fragments)):
        student.grow(fragments=depth, classes=student.num_classes, keep_exits=True)
    student.exits.load_state_dict(state)
    return student.eval()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with open_tensors(path) as file:
        metadata = file.metadata() or {}
        state = {name: read_tensor(file, name, path) for name in file.keys()}  # noqa: SIM118
    if not metadata.keys() >= {_KEY, _HASH}:
        raise UserError(f"{path} has no exits; expected a file that edufast wrote")
    if metadata[_HASH] != Fingerprint(state).hexdigest(metadata[_KEY]):
        raise UserError(f"{path} is damaged: its content does not match its hash")
    return json.loads(metadata[_KEY]), state
