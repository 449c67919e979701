"""Ctrl-C and its like: deferred until it is safe to stop, or as one exception."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Within the block, the first Ctrl-C (or SIGTERM, or SIGHUP) is only recorded.

    The yielded function returns whether there was one. A second one raises KeyboardInterrupt at
    once. Outside the main thread, where Python cannot handle signals, the function always returns
    False.
    """
    interrupted = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    with _handled_by(remember):
        yield lambda: interrupted


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does, so that what is
    half done is cleaned up; in the middle of an import, when that has ended, or at the second
    signal. Has no effect outside the main thread."""
    with _handled_by(_after_imports()), _heard_again():
        try:
            yield
        except ImportError as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            raise


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Within the block they wait. A process that is started here has them wait, too, until it
    calls :func:`unblock_signals`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Those that waited come now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether ``error`` is a KeyboardInterrupt, or stands for one: a package compiled with pybind11
    that is being imported makes an ImportError of it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _after_imports() -> Callable[[int, FrameType | None], None]:
    """A handler that raises KeyboardInterrupt, but not within an import: half of a package would
    stay, which fails in its own ways, and many packages take the exception for something else."""
    waiting = again = False

    def remind(main: int) -> None:
        nonlocal again
        time.sleep(0.05)
        again = True
        signal.pthread_kill(main, signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal waiting, again
        if _importing(frame) and (again or not waiting):
            waiting, again = True, False
            # Takes no lock, which this thread, the main one, might hold.
            _thread.start_new_thread(remind, (threading.get_ident(),))
            return
        waiting = again = False
        raise KeyboardInterrupt

    return handle


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


@contextmanager
def _heard_again() -> Iterator[None]:
    """A KeyboardInterrupt that Python prints and forgets, because it came in a weak reference's
    callback or in ``__del__``, is raised once more when that has ended."""
    before = sys.unraisablehook
    again = (threading.main_thread().ident, signal.SIGINT)  # to any other it would not end a wait

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
            return
        while True:
            try:
                threading.Timer(0.01, signal.pthread_kill, again).start()
                return
            except KeyboardInterrupt:  # it came again before this has ended, on a busy machine
                continue

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            # What nohup ignores stays ignored; so does what a program in C, of which Python is a
            # part, handles itself: it could not be given back.
            if previous is not None and (number, previous) != (signal.SIGHUP, signal.SIG_IGN):
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
