"""The command line as a whole: help and version."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import edufast as package
from edufast import __main__, _build
from edufast.cli import app
from edufast.cli.bench import bench
from tests.commands import edufast, words

COMMANDS = [[], *([c.callback.__name__] for c in app.registered_commands)]
COMMANDS += [["bench"], *(["bench", c.name] for c in bench.registered_commands)]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns_with_every_word_whole(command):
    narrow, wide = (edufast(*command, "--help", columns=c).stdout for c in (80, 300))
    assert max(map(len, narrow.splitlines())) <= 80
    assert words(narrow) == words(wide)


@pytest.mark.parametrize(
    "command",
    [*app.registered_commands, *bench.registered_commands],
    ids=lambda c: c.callback.__name__,
)
def test_paragraphs_of_a_help_text_which_are_shown_as_they_are_fit_too(command):
    _, *rest = inspect.getdoc(command.callback).split("\n\n")
    assert max(map(len, "\n".join(rest).splitlines()), default=0) <= 78


def test_version_tells_package_torch_and_build():
    told = edufast("--version").stdout
    first, second, operators, cuda = told.splitlines()
    assert first == f"edufast {package.__version__}"
    assert second == f"torch {torch.__version__.partition('+')[0]}"
    assert _build.cxx in operators and f"stable ABI {_build.torch_target}" in operators
    assert cuda == f"CUDA kernels: {_build.cuda}"


def test_without_a_command_the_help_is_shown():
    assert words(edufast(code=2).output) == words(edufast("--help").output)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edufast", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "edufast: standard output: No space left on device\n"


def test_ctrl_c_before_a_command_begins_prints_nothing(monkeypatch, capfd):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr("edufast.cli.app", stopped)
    monkeypatch.setattr(__main__, "outlive_readers", lambda: None)
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == 130 and capfd.readouterr() == ("", "")


def test_a_command_whose_messages_nobody_reads_ends_as_usual():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edufast", "verify", "nowhere.edge"]
    assert subprocess.run(command, stderr=write).returncode == 2
    os.close(write)
