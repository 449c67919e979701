"""Two processes that are the ranks of one process group, for all tests that need some."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

RANKS = 2
_PATIENCE = 300  # seconds


def on_ranks(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function`` returns on each rank; the function is importable from a module."""
    pipes = _pair()
    for pipe in pipes:
        pipe.send((function, arguments))
    if not all(pipe.poll(_PATIENCE) for pipe in pipes):
        raise AssertionError(f"{function.__name__}: a rank waits for the other")
    answers = [pipe.recv() for pipe in pipes]
    for failed, answer in answers:
        if failed:
            raise AssertionError(answer)
    return [answer for _, answer in answers]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
    return port


@functools.cache
def _pair() -> list[Connection]:
    """Started by the first test that needs it; Python and torch take seconds to start."""
    port = free_port()
    context, pipes = multiprocessing.get_context("spawn"), []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, rank, port), daemon=True).start()
        pipes.append(ours)
    atexit.register(lambda: [pipe.send(None) for pipe in pipes])
    return pipes


def _serve(pipe: Connection, rank: int, port: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }
    import traceback

    import torch

    from edufast.utils import ranks

    torch.set_num_threads(1)
    ranks.join()
    while (asked := pipe.recv()) is not None:
        function, arguments = asked
        try:
            pipe.send((False, function(*arguments)))
        except BaseException:
            pipe.send((True, f"rank {rank}: {traceback.format_exc()}"))
