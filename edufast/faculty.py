"""The teachers: frozen classifiers that each know a slice of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edufast.flops import forward_flops
from edufast.merging import folded_if_traceable
from edufast.ops import ClassSlices


@dataclass
class Teacher:
    """A classifier and what its logits stand for.

    Attributes:
        model: maps images (B, 3, H, W) to logits (B, len(classes)).
        classes: class id of each logit.
        name: for reports.
    """

    model: nn.Module
    classes: Sequence[int]
    name: str = "teacher"

    def __post_init__(self) -> None:
        self.classes = tuple(self.classes)
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(
                f"classes of {self.name} are {self.classes}; expected at least one, each once"
            )


class Faculty(Sequence[Teacher]):
    """Teachers in a fixed order, frozen, in eval mode.

    What runs is a copy with batch norm folded into the layers before it; a model that torch.fx
    cannot trace runs itself, and wants no gradients from here on.

    Args:
        teachers: any number of them, also none.
        device: where they run.
    """

    def __init__(self, teachers: Sequence[Teacher], device: torch.device | str = "cpu") -> None:
        self._teachers = tuple(teachers)
        self.device = torch.device(device)
        self._models = [
            folded_if_traceable(teacher.model)
            .requires_grad_(False)
            .to(self.device)
            .to(memory_format=torch.channels_last)
            for teacher in self._teachers
        ]

    def __len__(self) -> int:
        return len(self._teachers)

    def __getitem__(self, index: int) -> Teacher:  # type: ignore[override]
        return self._teachers[index]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    def flops(self, teacher: int, input_size: Sequence[int]) -> int:
        """FLOPs of one forward pass of one image of shape ``input_size`` (2 x multiply-adds)."""
        return forward_flops(self._models[teacher], input_size)

    def model(self, teacher: int) -> nn.Module:
        """What runs for ``teacher``: its folded copy."""
        return self._models[teacher]

    @torch.no_grad()
    def logits(self, teacher: int, images: Tensor) -> Tensor:
        """What ``teacher`` says about ``images`` (B, 3, H, W): (B, C_k)."""
        logits: Tensor = self._models[teacher](images)
        return logits

    def slices(
        self, teachers: Sequence[int], class_order: Sequence[int], *, known: int | None = None
    ) -> ClassSlices:
        """Where the logits of ``teachers`` stand among student logits in ``class_order``.

        Raises:
            ValueError: a teacher knows a class the student does not.
        """
        rank = {c: position for position, c in enumerate(class_order)}
        positions: list[list[int] | tuple[int, int]] = []
        for k in teachers:
            unknown = [c for c in self[k].classes if c not in rank]
            if unknown:
                raise ValueError(
                    f"teacher {k} ({self[k].name}) knows class {unknown[0]}, which is not among "
                    f"the {len(rank)} classes taught"
                )
            columns = [rank[c] for c in self[k].classes]
            first, last = columns[0], columns[-1] + 1
            contiguous = columns == list(range(first, last))
            positions.append((first, last) if contiguous else columns)
        return ClassSlices.of(positions, len(rank), self.device)
