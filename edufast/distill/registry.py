"""Algorithms by name: those of the package, and users' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edufast.distill.algorithm import Algorithm
from edufast.distill.attention import AttentionTransfer
from edufast.distill.crd import CRD
from edufast.distill.dist import DIST
from edufast.distill.dkd import DKD
from edufast.distill.fitnet import FitNet
from edufast.distill.kd import KD
from edufast.distill.mse import LogitMSE
from edufast.distill.standardised import Standardised
from edufast.utils.errors import UserError
from edufast.utils.registry import Registry

ALGORITHMS: Registry[Callable[..., Algorithm]] = Registry(
    "algorithm",
    "edufast.algorithms",
    Algorithm,
    {
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
    },
)

register_algorithm = ALGORITHMS.register


def create_algorithm(name: str, **options: Any) -> Algorithm:
    """The algorithm called ``name``.

    Args:
        name: a registered one, an import path such as ``mypackage.losses:Mine``, or an entry point
            of the group ``edufast.algorithms``. It stands for a subclass of :class:`Algorithm`, or
            for a function that returns one.
        options: its arguments. ``logits`` of algorithms that compare features is an algorithm
            itself: a name, a mapping with a name and options, or an object.

    Raises:
        UserError: there is no such algorithm, it does not take an option or its value, or the
            user's code fails.
    """
    if "logits" in options:
        options["logits"] = _of_logits(options["logits"])
    return ALGORITHMS.call(name, **options)


def _of_logits(given: Any) -> Any:
    if isinstance(given, str):
        return create_algorithm(given)
    if isinstance(given, Mapping):
        if "name" not in given:
            raise UserError(f"algorithm: logits is {dict(given)}; expected a name among the keys")
        return create_algorithm(**given)
    return given
