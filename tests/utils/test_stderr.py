"""Messages of C code, and those that nobody reads."""

from __future__ import annotations

import os
import subprocess
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


def test_a_process_outlives_the_reader_of_its_messages() -> None:
    """As tee, which Ctrl-C ends first; what C code prints later does no harm either."""
    code = (
        "import os, sys; from edufast.utils.stderr import outlive_readers; outlive_readers()\n"
        "print('caf\\xe9', file=sys.stderr); print('begun', flush=True); sys.stdin.read()\n"
        "for line in 'ab': print(line, file=sys.stderr)\n"
        "os.write(2, b'c'); print('done', sys.stderr.isatty())\n"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    assert process.stderr is not None and process.stderr.readline().startswith(b"caf")
    process.stderr.close()
    process.stderr = None
    assert process.communicate()[0] == b"done False\n" and process.returncode == 0
