"""Distillation algorithms, composed with the curriculum. One more is one file and one line here."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from edufast.errors import UserError
from edufast.lesson import Teaching
from edufast.losses.kd import KD


class Algorithm(Protocol):
    """Turns what student and teachers say about a batch into a loss."""

    @property
    def temperature(self) -> float: ...

    def __call__(self, student: Tensor, teaching: Teaching, labels: Tensor) -> Tensor: ...


ALGORITHMS: dict[str, type[Algorithm]] = {"kd": KD}


def create_algorithm(name: str, **options: Any) -> Algorithm:
    """The algorithm called ``name``.

    Raises:
        UserError: there is none of that name, or it does not take an option.
    """
    if name not in ALGORITHMS:
        raise UserError(f"algorithm is {name!r}; expected one of {', '.join(ALGORITHMS)}")
    try:
        return ALGORITHMS[name](**options)
    except TypeError as error:
        raise UserError(f"algorithm {name!r}: {error}") from error


__all__ = ["ALGORITHMS", "KD", "Algorithm", "create_algorithm"]
