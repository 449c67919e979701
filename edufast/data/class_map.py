"""Class ids of a data set, and their positions among the logits of a student."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from edufast.ops import ClassSlices
from edufast.utils.instances import listed
from edufast.utils.numbers import whole_numbers


@dataclass(frozen=True)
class ClassMap:
    """Which class each logit of a student stands for.

    A *class id* counts the classes of the data set; a *position* counts the student's logits.

    Attributes:
        slices: class ids, slice after slice, in the order of the logits: in a curriculum, the
            classes that each grade adds.

    Raises:
        ValueError: there is no class, or one of them twice.
    """

    slices: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        given = listed(self.slices)
        if given is None:
            raise ValueError(f"slices is {self.slices!r}; expected sequences of class ids")
        found = (whole_numbers(f"slices[{i}]", ids, 0) for i, ids in enumerate(given))
        slices = tuple(ids for ids in found if ids)
        object.__setattr__(self, "slices", slices)
        if not self.ids or len(self.position_of) < len(self.ids):
            raise ValueError(f"slices is {slices}; expected at least one class, each once")

    @classmethod
    def of(cls, *slices: Sequence[int]) -> ClassMap:
        """Of class ids, slice by slice; empty slices are left out."""
        return cls(tuple(tuple(ids) for ids in slices))

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.ids)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Class id at each position."""
        return tuple(itertools.chain.from_iterable(self.slices))

    @cached_property
    def position_of(self) -> dict[int, int]:
        """Position of each class id."""
        return {c: position for position, c in enumerate(self.ids)}

    @cached_property
    def by_id(self) -> tuple[int, ...]:
        """Positions in the order of rising class ids."""
        return tuple(sorted(range(len(self)), key=self.ids.__getitem__))

    def positions(self, device: torch.device | str = "cpu") -> Tensor:
        """(largest id + 1,) int64: position of every class id, -1 for those not in the map."""
        table = torch.full((max(self.ids) + 1,), -1)
        return table.index_copy_(0, torch.tensor(self.ids), torch.arange(len(self))).to(device)

    def slice_of(self, device: torch.device | str = "cpu") -> Tensor:
        """(number of classes,) int64: the slice of every position."""
        sizes = torch.tensor([len(ids) for ids in self.slices], device=device)
        return torch.arange(len(sizes), device=device).repeat_interleave(sizes)

    def class_slices(
        self, known: Mapping[str, Sequence[int]], device: torch.device | str = "cpu"
    ) -> ClassSlices:
        """Where the logits of teachers stand among the student's.

        Args:
            known: class ids that each teacher knows, by its name in errors.
            device: of the student's logits.

        Raises:
            ValueError: a teacher knows a class that is not in the map.
        """
        columns: list[list[int] | tuple[int, int]] = []
        for name, ids in known.items():
            unknown = [c for c in ids if c not in self.position_of]
            if unknown:
                raise ValueError(
                    f"{name} knows class {unknown[0]}, which is not among the {len(self)} "
                    "classes taught"
                )
            positions = [self.position_of[c] for c in ids]
            first, stop = positions[0], positions[0] + len(positions)
            columns.append((first, stop) if positions == list(range(first, stop)) else positions)
        return ClassSlices.of(columns, len(self), device)
