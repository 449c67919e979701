"""Messages of C code."""

from __future__ import annotations

import os
import sys

import pytest

from edufast.utils.stderr import without_messages


def test_nothing_is_printed_within_and_everything_around_it(capfd) -> None:
    print("before", file=sys.stderr)
    with without_messages():
        os.write(2, b"of C code\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_an_error_leaves_standard_error_as_it_was(capfd) -> None:
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyError), without_messages():
        raise KeyError
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n" and len(os.listdir("/proc/self/fd")) == files
