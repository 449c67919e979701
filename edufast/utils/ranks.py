"""The processes of a distributed training ("ranks"): who this one is, and what they agree on.

torchrun starts the processes; ``torch.distributed`` connects them. Where there is a single one,
every function returns at once what it was given. Tensors are in :mod:`edufast.utils.collectives`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from edufast.utils.errors import LostRank, UserError, one_line
from edufast.utils.numbers import decimal
from edufast.utils.signals import deferred_interrupt

P = ParamSpec("P")
T = TypeVar("T")

# A rank that died is noticed by its closed connections, or by torchrun, which then ends the others;
# one whose machine is gone, by nothing but time. The first one may measure and export for longer.
_PATIENCE = timedelta(minutes=10)
_PATIENCE_WITH_FIRST = timedelta(hours=1)
_ASK_EVERY = 1.0  # seconds between two agreements on whether to stop, or looks for torchrun
_TOLD_WITHIN = 3.0  # seconds

# Made by join(); without, all have the patience of the process group that somebody else made.
_store: dist.Store | None = None
_with_first: Any = None  # a process group


def size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Whether this is the rank that writes files and talks to people."""
    return rank() == 0


def own_rows() -> slice:
    """This rank's rows of a global batch: every N-th, so that each rank has as many rows of every
    group of a batch that is sorted by group, to within one."""
    return slice(rank(), None, size())


def join() -> bool:
    """Connect with the other processes that torchrun has started, if it has and nobody did.

    Each process takes the GPU of its number on the machine, where there are GPUs.

    Returns:
        Whether it was done here, so that :func:`leave` is to follow.

    Raises:
        UserError: the variables that torchrun sets are incomplete or make no sense, or the first
            process cannot listen where they say.
    """
    global _store, _with_first
    count = _variable("WORLD_SIZE", default=1)
    if count == 1 or dist.is_initialized():
        return False
    number, local = _variable("RANK"), _variable("LOCAL_RANK")
    if number >= count:  # nobody would wait for it, and it for ever
        raise UserError(f"RANK is {number}; expected less than WORLD_SIZE, {count}")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        store, number, count = next(dist.rendezvous("env://", timeout=_PATIENCE_WITH_FIRST))
        dist.init_process_group(
            backend,
            store=dist.PrefixStore("group", store),
            rank=number,
            world_size=count,
            timeout=_PATIENCE,
        )
        _with_first = dist.new_group(timeout=_PATIENCE_WITH_FIRST, backend="gloo")
    except (ValueError, dist.DistError) as error:
        raise UserError(
            f"WORLD_SIZE is {str(count)!r}, but {one_line(error)}; expected the variables that "
            "torchrun sets"
        ) from error
    _store = dist.PrefixStore("edufast", store)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return True


def _end_with(torchrun: int) -> None:
    """End this process when ``torchrun``, which has started it, is gone, as after kill -9: ranks
    would go on by themselves in a folder that others are to go on in. Nothing is lost but the time
    since the last checkpoint."""
    while os.getppid() == torchrun:
        time.sleep(_ASK_EVERY)
    os._exit(1)


def _variable(name: str, default: int = 0) -> int:
    """The number in an environment variable of torchrun's."""
    value = os.environ.get(name) or str(default)
    number = decimal(value)
    if number is None or (name == "WORLD_SIZE" and number < 1):
        raise UserError(f"{name} is {value!r}; expected a number, as torchrun sets it")
    return number


def leave(*, failed: bool = False) -> None:
    """Disconnect after :func:`join`, at the end of a command.

    Args:
        failed: other ranks may be waiting for this one. NCCL could wait for them in turn, so that
            it is left to the end of the process.
    """
    global _with_first
    _with_first = None
    if not failed or dist.get_backend() == "gloo":
        dist.destroy_process_group()


def check_device(device: torch.device) -> None:
    """Check that each rank has a device of its own.

    Raises:
        UserError: several would share a GPU.
    """
    if size() == 1 or device.type != "cuda":
        return
    if device.index not in (None, torch.cuda.current_device()):
        raise UserError(f"device is {device} on {size()} ranks; expected cuda: each takes its own")
    local, found = _variable("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    if local > found:
        raise UserError(
            f"torchrun started {local} processes on a machine with {found} GPUs; expected "
            f"--nproc-per-node {found} at most"
        )


@contextmanager
def together() -> Iterator[None]:
    """Around a collective operation.

    Raises:
        LostRank: it failed, because another rank has ended, or was waited for too long.
    """
    try:
        yield
    except RuntimeError as error:
        raise LostRank(
            f"another process of this training has ended, or is silent: {one_line(error)}"
        ) from error


def wait() -> None:
    """Until all ranks are here."""
    from_first(int)


def from_first(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """What ``function`` returns on the first rank; it is called nowhere else.

    Raises:
        LostRank: on other ranks, if it has failed there.
    """
    if size() == 1:
        return function(*arguments, **keywords)
    found: list[Any] = [None, True]  # and whether it failed
    try:
        if is_first():
            found = [function(*arguments, **keywords), False]
    finally:
        with together():
            dist.broadcast_object_list(found, group=_with_first)
    if found[1]:
        raise LostRank("the first process of this training has failed")
    result: T = found[0]
    return result


class Stop:
    """Whether a rank was told to stop: all ranks get the same answer at the same step.

    Asking the others costs a collective operation and waits for the device, so it is done about
    once a second; in between the answer is no. A single process answers at once.

    Args:
        own: whether this process was told to stop.
        device: of the collective operation.
    """

    def __init__(self, own: Callable[[], bool], device: torch.device) -> None:
        self._own, self._device = own, device
        self._calls, self._next, self._asked = 0, 1, time.monotonic()

    def __call__(self, *, now: bool = False) -> bool:
        """Called by every rank as often as by the others.

        Args:
            now: ask in any case.
        """
        if size() == 1:
            return self._own()
        self._calls += 1
        if self._calls < self._next and not now:
            return False
        spent = time.monotonic() - self._asked
        calls = max(1, int(_ASK_EVERY / spent * self._calls)) if spent < _ASK_EVERY else 1
        agreed = torch.tensor([not self._own(), calls], device=self._device)
        with together():
            dist.all_reduce(agreed, dist.ReduceOp.MIN)
        go_on, self._next = agreed.tolist()
        self._calls, self._asked = 0, time.monotonic()
        return not go_on


def first_to_tell() -> bool:
    """Whether no other rank has said yet why the command ends: only one of them does, once."""
    if _store is None:
        return (os.environ.get("RANK") or "0") == "0"
    try:
        return _store.add("told", 1) == 1
    except RuntimeError:  # it is gone, with whoever kept it
        return is_first()


def others_told() -> bool:
    """Whether another rank says within a few seconds why the command ends. Signals, by which
    torchrun ends the ranks that are left, are not heeded meanwhile."""
    if _store is None:
        return False
    ends = time.monotonic() + _TOLD_WITHIN
    with deferred_interrupt():
        try:
            while not _store.check(["told"]):
                if time.monotonic() > ends:
                    return False
                time.sleep(0.05)
        except RuntimeError:  # it is gone, with whoever kept it
            return not is_first()
    return True
