"""Variables that say how to compute are checked before anything else."""

import os
import subprocess
import sys

import pytest

from edufast.cli.environment import check_environment
from edufast.utils.errors import UserError
from tests.commands import edufast, one_line

BY_RANKS = [
    ("teach", "quickstart"),
    ("train", "quickstart"),
    ("compare", "quickstart"),
    ("resume", "run"),
]
ALONE = [
    ("sweep", "quickstart"),
    ("pipeline", "quickstart"),
    ("plan",),
    ("export", "run"),
    ("merge", "a", "b", "-o", "c"),
    ("recipes", "quickstart"),
    ("bench", "kd"),
    ("bench", "merge"),
    ("bench", "augment"),
    ("bench", "train"),
    ("bench", "export"),
    ("bench", "edge", "run"),
    ("bench", "all"),
    ("bench", "diff", "a", "b"),
]


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """What a command says that ends at once, with these variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def refused(command, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        text = one_line(edufast(*command, code=2))
        assert text.startswith("edufast: ")
        assert list(tmp_path.iterdir()) == []
        return text

    return refused


@pytest.mark.parametrize("command", BY_RANKS + ALONE, ids=" ".join)
def test_every_command_that_computes_checks_first(command, refused):
    message = "EDUFAST_BACKEND is 'cppp'; did you mean 'cpp'?"
    assert message in refused(command, EDUFAST_BACKEND="cppp")
    for value in ("two", "0", "9" * 5000):
        message = f"WORLD_SIZE is '{value}'; expected a number of processes"
        assert message.replace(" ", "") in refused(command, WORLD_SIZE=value).replace(" ", "")


@pytest.mark.parametrize("command", ALONE, ids=" ".join)
def test_commands_of_one_process_refuse_several(command, refused):
    message = "WORLD_SIZE is '2'; expected 1: this command runs in one process"
    assert message in refused(command, WORLD_SIZE="2")


@pytest.mark.parametrize("command", BY_RANKS, ids=" ".join)
def test_others_need_what_torchrun_sets(command, refused):
    text = refused(command, WORLD_SIZE="2")
    assert "WORLD_SIZE is '2', but" in text and "RANK" in text
    assert text.endswith("expected the variables that torchrun sets")


def test_a_sweep_is_not_gone_on_with_by_several(tmp_path, monkeypatch):
    (tmp_path / "sweep.yaml").write_text("")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("edufast.utils.ranks.join", lambda: False)
    text = one_line(edufast("resume", tmp_path, code=2))
    assert "expected 1: this command runs in one process" in text


@pytest.mark.parametrize("value", ["", "1"])
def test_one_process_is_none_of_several(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", value)
    check_environment()


@pytest.mark.parametrize("value", ["", "cpp", "reference", "triton"])
def test_known_backends_pass(monkeypatch, value):
    monkeypatch.setenv("EDUFAST_BACKEND", value)
    check_environment()


def test_other_errors_of_operators_are_told_too(monkeypatch):
    def broken(*_, **__):
        raise ValueError("EDUFAST_CPU_ISA is 'x'; expected baseline")

    monkeypatch.setattr("edufast.ops.merge_", broken)
    with pytest.raises(UserError, match="EDUFAST_CPU_ISA is 'x'; expected baseline"):
        check_environment()


@pytest.mark.parametrize("value", ["quick", ""])
def test_processes_refuse_an_unknown_instruction_set(tmp_path, value):
    command = [sys.executable, "-m", "edufast", "train", "quickstart"]
    environment = {**os.environ, "EDUFAST_CPU_ISA": value}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"edufast: EDUFAST_CPU_ISA is '{value}'; expected baseline, x86-64-v3")
    assert list(tmp_path.iterdir()) == []


PRINTS_HOW_OPENMP_WAITS = """
import os, sys
from edufast.cli import app
import edufast.cli.train
assert "torch" not in sys.modules
edufast.cli.train.device_name = lambda name: print(os.environ["GOMP_SPINCOUNT"], name)
app(["train", "quickstart", "--device", "x", "-o", "/dev/null/no"], standalone_mode=False)
"""


@pytest.mark.parametrize("own", [None, "77"])
def test_processes_spin_briefly_unless_the_user_says_otherwise(tmp_path, own):
    unset = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {} if own is None else {"GOMP_SPINCOUNT": own}
    command = [sys.executable, "-c", PRINTS_HOW_OPENMP_WAITS]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.stdout.split() == [own or "10000", "x"], process.stderr


def test_a_backend_of_matplotlib_that_is_not_here_hinders_nobody(tmp_path):
    """As notebooks set it for the commands that they start; it was noticed when all was trained."""
    sheet = tmp_path / "sheet.png"
    command = [sys.executable, "-m", "edufast", "data", "digits", "--contact-sheet", str(sheet)]
    environment = {**os.environ, "MPLBACKEND": "no such backend"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sheet.is_file()
