"""Which classes each teacher's logits stand for."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from edufast.utils._torch_private import values_are_at_hand

# Of classes and labels; larger unsigned ones would wrap.
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Slice: TypeAlias = "tuple[int, int] | range | Sequence[int] | Tensor"


@dataclass(frozen=True)
class ClassSlices:
    """Class slices of K teachers, validated once and laid out for the kernels.

    Attributes:
        starts: first class of each range slice (0 for an index list).
        columns: empty when every slice is a range; else K int64 tensors on the logits' device, the
            class of each teacher column; a tensor without elements marks a range.
        sizes: number of classes of each slice.
    """

    starts: tuple[int, ...]
    columns: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(
        cls, slices: Sequence[Slice], num_classes: int, device: torch.device | str = "cpu"
    ) -> ClassSlices:
        """Validate ``slices`` against a student with ``num_classes`` logits.

        A slice is ``(start, stop)`` (a tuple of two), a ``range`` of step 1, or the classes one by
        one: a list or a 1-d integer tensor, without repetition. Slices may overlap. A CUDA tensor
        is not read back (that would stall the device): for it only the shape is checked, and the
        kernel answers an index out of range with a NaN loss. Nor is a tensor while a graph is
        traced: on the CPU the operator looks at it.

        Raises:
            ValueError: a slice is empty, reaches outside ``[0, num_classes)`` or repeats a class.
        """
        starts, lists = [], []
        sizes = []
        for k, item in enumerate(slices):
            bounds = _as_range(item)
            if bounds is not None:
                start, stop = bounds
                if not 0 <= start < stop <= num_classes:
                    raise ValueError(
                        f"slices[{k}] is ({start}, {stop}); expected 0 <= start < stop <= "
                        f"{num_classes}, the number of student classes"
                    )
                starts.append(start)
                lists.append(torch.empty(0, dtype=torch.int64, device=device))
                sizes.append(stop - start)
            else:
                index = _as_index(item, k, num_classes, device)
                starts.append(0)
                lists.append(index)
                sizes.append(index.numel())
        columns = tuple(lists) if any(index.numel() for index in lists) else ()
        return cls(tuple(starts), columns, tuple(sizes))

    def select(self, logits: Tensor, k: int) -> Tensor:
        """The columns of ``logits`` (B, C) that teacher ``k`` speaks about, (B, C_k)."""
        if self.columns and self.columns[k].numel():
            return logits.index_select(1, self.columns[k])
        return logits.narrow(1, self.starts[k], self.sizes[k])

    def local_label(self, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Position of each label in slice ``k`` (0 where absent), and whether it is there."""
        if self.columns and self.columns[k].numel():
            matches = labels[:, None] == self.columns[k][None, :]
            return matches.to(torch.uint8).argmax(1), matches.any(1)
        local = labels - self.starts[k]
        inside = (local >= 0) & (local < self.sizes[k])
        return local.where(inside, 0), inside


def _as_range(item: Slice) -> tuple[int, int] | None:
    if isinstance(item, range) and item.step == 1:
        return item.start, item.stop
    if isinstance(item, tuple) and len(item) == 2:
        try:  # also NumPy's integers
            return operator.index(item[0]), operator.index(item[1])
        except TypeError:
            return None
    return None


def _as_index(item: Slice, k: int, num_classes: int, device: torch.device | str) -> Tensor:
    if not isinstance(item, Tensor):
        index = _listed(item, k, num_classes)
    elif item.dim() != 1 or item.numel() == 0 or item.dtype not in INTEGERS:
        raise ValueError(
            f"slices[{k}] has shape {tuple(item.shape)} and dtype {item.dtype}; expected "
            "(start, stop) or at least one class in a list or 1-d integer tensor"
        )
    elif values_are_at_hand(item):
        index = _listed(item.tolist(), k, num_classes)
    else:
        index = item
    if index.is_meta and torch.device(device).type != "meta":
        raise ValueError(f"slices[{k}] is on meta; expected {device}")
    return index.to(device=device, dtype=torch.int64).contiguous()


def _listed(item: Slice, k: int, num_classes: int) -> Tensor:
    """The classes of a list, looked at in Python, where tracing does not mind."""
    try:
        classes = [operator.index(c) for c in item]
    except TypeError:
        classes = []
    if not classes or any(isinstance(c, bool) for c in item):
        raise ValueError(
            f"slices[{k}] is {item!r}; expected (start, stop) or at least one class in a list"
        )
    for c in classes:
        if not 0 <= c < num_classes:
            raise ValueError(f"slices[{k}] names class {c}; expected classes in [0, {num_classes})")
    if len(set(classes)) != len(classes):
        raise ValueError(f"slices[{k}] names a class twice; expected each class once")
    return torch.tensor(classes, dtype=torch.int64, device="cpu")
