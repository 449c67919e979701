"""A first Ctrl-C is remembered, a second one interrupts, and afterwards all is as before."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress

import pytest

from edufast.utils.signals import (
    blocked_signals,
    deferred_interrupt,
    signals_as_interrupt,
    unblock_signals,
)
from tests.commands import interrupted_import

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers():
    """Handlers that a failing test must not leave behind, and that must come back."""
    inherited = [signal.getsignal(number) for number in SIGNALS]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, by which tests may be run, ignores it
    before = [signal.getsignal(number) for number in SIGNALS]
    yield before
    found = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, inherited, strict=True):
        signal.signal(number, handler)
    assert found == before


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_waits_to_be_asked_for(number):
    with deferred_interrupt() as interrupted:
        assert interrupted() is False
        signal.raise_signal(number)
        assert interrupted() is True
        assert interrupted() is True  # asking does not forget it


@pytest.mark.parametrize("first", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("second", SIGNALS, ids=lambda number: number.name)
def test_the_second_signal_interrupts_at_once(first, second):
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        signal.raise_signal(first)
        signal.raise_signal(second)
        pytest.fail("went on after the second signal")


def test_an_error_inside_gives_the_handlers_back(handlers):
    with pytest.raises(RuntimeError), deferred_interrupt():
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_blocks_may_follow_each_other():
    for _ in range(2):
        with deferred_interrupt() as interrupted:
            assert not interrupted()
            signal.raise_signal(signal.SIGINT)
            assert interrupted()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_every_signal_interrupts_as_ctrl_c_does(number):
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        signal.raise_signal(number)
        pytest.fail("went on after the signal")


@pytest.mark.parametrize("block", [deferred_interrupt, signals_as_interrupt])
def test_a_hangup_that_nohup_ignores_stays_ignored(block):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with block() as interrupted:
            signal.raise_signal(signal.SIGHUP)
            assert interrupted is None or not interrupted()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("block", [deferred_interrupt, signals_as_interrupt])
def test_handlers_of_a_program_in_c_stay(block, handlers, monkeypatch):
    """Python is a part of it, and calls such a handler None."""
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with block():
        monkeypatch.undo()
        assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_outside_the_main_thread_nothing_is_deferred(handlers):
    found = []

    def work() -> None:
        with deferred_interrupt() as interrupted:
            found.append(interrupted())
            found.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, handlers]


def test_blocked_signals_wait_here_and_in_a_process_that_is_started_meanwhile():
    code = "import signal; print(*sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with deferred_interrupt() as interrupted:
        with blocked_signals():
            signal.raise_signal(signal.SIGTERM)
            assert not interrupted()
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert interrupted()
    assert {int(number) for number in out.stdout.split()} >= set(SIGNALS)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_unblocked_signals_come():
    with signals_as_interrupt(), blocked_signals():
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            unblock_signals()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_within_a_weak_references_callback_is_not_lost(number):
    """Python prints an exception there, and goes on."""

    class Thing:
        pass

    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        del thing
        assert reference() is None
        time.sleep(10)


def test_nor_is_it_where_it_comes_again_too_soon(monkeypatch):
    """On a busy machine: before Python has ended what it says about the first."""
    start, started = threading.Timer.start, []

    def start_and_wait(timer):
        started.append(timer)
        start(timer)
        if len(started) == 1:
            timer.join()

    monkeypatch.setattr(threading.Timer, "start", start_and_wait)
    test_a_signal_within_a_weak_references_callback_is_not_lost(signal.SIGINT)
    assert len(started) >= 2  # it may come too soon again


def test_what_an_import_makes_of_ctrl_c_is_ctrl_c_again():
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        interrupted_import()
    with pytest.raises(ImportError, match="damaged"), signals_as_interrupt():
        raise ImportError("damaged")


IMPORTED = """
import signal
try:
    signal.raise_signal(signal.{name})
except BaseException:  # as many packages do, for parts that they can do without
    pass
whole = True
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_an_import_is_ended_first(number, tmp_path, monkeypatch):
    """Half a package would stay, which fails in its own ways: of NumPy a RecursionError."""
    name = f"imported_{number.name.lower()}"
    (tmp_path / f"{name}.py").write_text(IMPORTED.format(name=number.name))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        importlib.import_module(name)
        time.sleep(10)
    assert sys.modules[name].whole


def test_but_the_second_signal_ends_it(tmp_path, monkeypatch):
    code = "import signal\n" + "signal.raise_signal(signal.SIGTERM)\n" * 2
    (tmp_path / "imported_twice.py").write_text(code + "raise AssertionError('went on')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), signals_as_interrupt():
        try:
            importlib.import_module("imported_twice")
        finally:
            with suppress(KeyboardInterrupt):  # that of the first, which has no import to wait for
                time.sleep(0.5)
