"""The command line as a whole: help and version."""

import pytest
import torch

import edufast as package
from edufast import _native
from edufast.cli import app
from tests.commands import edufast, words

COMMANDS = [[], *([c.callback.__name__] for c in app.registered_commands)]
COMMANDS += [["bench"], ["bench", "kd"], ["bench", "merge"], ["bench", "train"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns_with_every_word_whole(command):
    narrow, wide = (edufast(*command, "--help", columns=c).stdout for c in (80, 300))
    assert max(map(len, narrow.splitlines())) <= 80
    assert words(narrow) == words(wide)


def test_version_tells_package_torch_and_build():
    told = edufast("--version").stdout
    first, second, operators, cuda = told.splitlines()
    assert first == f"edufast {package.__version__}"
    assert second == f"torch {torch.__version__.partition('+')[0]}"
    assert _native.cxx in operators and f"stable ABI {_native.torch_target}" in operators
    assert cuda == f"CUDA kernels: {_native.cuda}"


def test_without_a_command_the_help_is_shown():
    assert words(edufast(code=2).output) == words(edufast("--help").output)
