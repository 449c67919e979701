"""Environment variables, which commands that compute check first."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import ParamSpec, TypeVar

from edufast.cli.common import as_rank, user
from edufast.utils.errors import UserError, unknown
from edufast.utils.numbers import decimal
from edufast.utils.threads import configure_openmp

P = ParamSpec("P")
T = TypeVar("T")


def computes(command: Callable[P, T], *, by_ranks: bool = False) -> Callable[P, T]:
    """``command``, which first checks the keys of its recipe, if it takes one, and the environment
    (:func:`check_environment`), and fails as :func:`user` does.

    Args:
        command: to be wrapped.
        by_ranks: whether several processes, started by torchrun, may carry it out together.
    """

    @functools.wraps(command)
    def checked(*arguments: P.args, **options: P.kwargs) -> T:
        if isinstance(recipe := options.get("recipe"), str):
            user(_check_keys, recipe, options.get("set_"))
        configure_openmp()
        # A notebook's value may need a package that is missing here; plots only go to files.
        os.environ.pop("MPLBACKEND", None)
        user(check_environment, by_ranks=by_ranks)
        with as_rank() if by_ranks else nullcontext():
            return user(command, *arguments, **options)

    return checked


def _check_keys(recipe: str, changes: object) -> None:
    from edufast.experiments.written import check_keys

    check_keys(recipe, changes if isinstance(changes, list) else [])


def check_environment(*, by_ranks: bool = False) -> None:
    """Check the environment variables that would be read only hours later, or by nobody.

    Args:
        by_ranks: whether there may be several processes.

    Raises:
        UserError: one asks for what there is not.
    """
    processes = os.environ.get("WORLD_SIZE") or "1"
    if not decimal(processes):
        raise UserError(f"WORLD_SIZE is {processes!r}; expected a number of processes")
    if processes != "1" and not by_ranks:
        raise UserError(
            f"WORLD_SIZE is {processes!r}; expected 1: this command runs in one process (a sweep "
            "in several, with --jobs), so start it without torchrun"
        )
    import torch  # after configure_openmp, and not for --help

    from edufast.ops import merge_
    from edufast.ops.backends import BACKENDS

    backend = os.environ.get("EDUFAST_BACKEND") or BACKENDS[0]
    if backend not in BACKENDS:
        raise unknown("EDUFAST_BACKEND", backend, BACKENDS)
    try:
        merge_([torch.zeros(1)], [torch.ones(1)], backend="cpp")
    except ValueError as error:  # EDUFAST_CPU_ISA
        raise UserError(str(error)) from error
