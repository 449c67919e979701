"""Distillation algorithms, composed with the curriculum. One more is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edufast.distill.algorithm import Algorithm, GradeContext
from edufast.distill.attention import AttentionTransfer
from edufast.distill.crd import CRD
from edufast.distill.dist import DIST
from edufast.distill.dkd import DKD
from edufast.distill.feature_algorithm import FeatureAlgorithm
from edufast.distill.fitnet import FitNet
from edufast.distill.kd import KD
from edufast.distill.mse import LogitMSE
from edufast.distill.standardised import Standardised
from edufast.utils.errors import UserError

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "kd": KD,
    "reverse_kl": partial(KD, divergence="reverse_kl"),
    "js": partial(KD, divergence="js"),
    "dkd": DKD,
    "dist": DIST,
    "standardised": Standardised,
    "mse": LogitMSE,
    "fitnet": FitNet,
    "at": AttentionTransfer,
    "crd": CRD,
}


def create_algorithm(name: str, **options: Any) -> Algorithm:
    """The algorithm called ``name``.

    The option ``logits`` of algorithms that compare features is an algorithm itself: a name, a
    mapping with a name and options, or an object.

    Raises:
        UserError: there is none of that name, or it does not take an option or its value.
    """
    if name not in ALGORITHMS:
        raise UserError(f"algorithm is {name!r}; expected one of {', '.join(ALGORITHMS)}")
    inner = options.get("logits")
    try:
        if isinstance(inner, str):
            options["logits"] = create_algorithm(inner)
        elif isinstance(inner, Mapping):
            options["logits"] = create_algorithm(**inner)
        return ALGORITHMS[name](**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"algorithm {name!r}: {error}") from error


__all__ = [
    "ALGORITHMS",
    "CRD",
    "DIST",
    "DKD",
    "KD",
    "Algorithm",
    "AttentionTransfer",
    "FeatureAlgorithm",
    "FitNet",
    "GradeContext",
    "LogitMSE",
    "Standardised",
    "create_algorithm",
]
