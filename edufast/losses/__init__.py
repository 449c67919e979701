"""Distillation algorithms, composed with the curriculum. One more is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from edufast.errors import UserError
from edufast.losses.algorithm import Algorithm, GradeContext
from edufast.losses.dist import DIST
from edufast.losses.dkd import DKD
from edufast.losses.kd import KD
from edufast.losses.mse import LogitMSE
from edufast.losses.standardised import Standardised

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "kd": KD,
    "reverse_kl": partial(KD, divergence="reverse_kl"),
    "js": partial(KD, divergence="js"),
    "dkd": DKD,
    "dist": DIST,
    "standardised": Standardised,
    "mse": LogitMSE,
}


def create_algorithm(name: str, **options: Any) -> Algorithm:
    """The algorithm called ``name``.

    Raises:
        UserError: there is none of that name, or it does not take an option or its value.
    """
    if name not in ALGORITHMS:
        raise UserError(f"algorithm is {name!r}; expected one of {', '.join(ALGORITHMS)}")
    try:
        return ALGORITHMS[name](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"algorithm {name!r}: {error}") from error


__all__ = [
    "ALGORITHMS",
    "DIST",
    "DKD",
    "KD",
    "Algorithm",
    "GradeContext",
    "LogitMSE",
    "Standardised",
    "create_algorithm",
]
