"""What the commands share."""

import errno
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import typer
import yaml
from rich.console import Console

from edufast.cli import common
from edufast.cli.common import device_name, fail, table, user, warnings_in_one_line
from edufast.models.weights import ModelInfo, read_info, save_model
from edufast.models.zoo import create_model
from edufast.utils.errors import TrainingError, UserError
from edufast.utils.progress import message_console
from tests.commands import edufast, interrupted_import

OURS = os.path.abspath(common.__file__)


@pytest.mark.parametrize("present", [True, False])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, present):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert device_name("auto") == ("cuda" if present else "cpu")


def test_a_device_that_exists_keeps_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_name(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]


def test_a_device_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("gpu", "meta"):
        with pytest.raises(UserError, match=f"--device is '{name}'; expected cpu, cuda or cuda:N"):
            device_name(name)
    with pytest.raises(
        UserError, match="--device is 'cuda:0', but torch finds no CUDA device here"
    ):
        device_name("cuda:0")


def test_a_package_that_a_command_lacks_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = edufast("data", "digits", "--contact-sheet", tmp_path / "sheet.png", code=2)
    assert " ".join(result.stderr.split()).endswith(
        "edufast: this command needs matplotlib: pip install 'edufast[train]'"
    )


def test_a_package_that_cannot_be_loaded_is_told_in_one_line(capsys):
    """As torch beside a limit of memory, or built for another system."""

    def import_it():
        raise ImportError("libtorch_cpu.so: failed to map\nsegment from shared object", name="_C")

    with pytest.raises(typer.Exit) as caught:
        user(import_it)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == (
        "edufast: a package cannot be loaded: libtorch_cpu.so: failed to map segment from shared "
        "object\n"
    )


def test_an_import_that_ctrl_c_ended_is_no_package_that_cannot_be_loaded():
    with pytest.raises(KeyboardInterrupt):
        user(interrupted_import)


def test_names_between_colons_are_no_emoji(capsys):
    row = table("rose:red")
    row.add_row("plant:rose:red")
    common.show(row)
    common.say("a:cat:b")
    message_console().print("c:cat:d")
    with pytest.raises(typer.Exit):
        fail("e:cat:f", 2)
    printed = capsys.readouterr()
    assert "plant:rose:red" in printed.out
    assert printed.err == "a:cat:b\nc:cat:d\nedufast: e:cat:f\n"


def test_control_characters_in_names_are_shown(capsys):
    row = table("a\x1bb", wraps=["a\x1bb"])
    row.add_row("c\x07d")
    common.show(row)
    common.say("e\x1b\nf")
    printed = capsys.readouterr()
    assert r"a\x1bb" in printed.out and r"c\x07d" in printed.out
    assert printed.err == "e\\x1b\\nf\n"


def test_an_import_error_of_our_own_stays_one():
    def import_it():
        raise ImportError("cannot import name 'x'", name="edufast.ops")

    with pytest.raises(ImportError, match="cannot import name"):
        user(import_it)


def test_what_the_user_got_wrong_ends_in_one_line_and_code_2(capsys):
    message = "training.lr: found [fast]; expected a number, " + "and a long explanation " * 5

    def wrong():
        raise UserError(message.strip())

    with pytest.raises(typer.Exit) as ended:
        user(wrong)
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == f"edufast: {message.strip()}\n"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOTDIR, "Not a directory"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_what_the_file_system_refuses_is_one_line(number, message, capsys):
    def refused():
        raise OSError(number, os.strerror(number), "runs/x")

    with pytest.raises(typer.Exit) as ended:
        user(refused)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == f"edufast: runs/x: {message}\n"


@pytest.mark.parametrize("command", ["train", "resume", "export", "recipes"])
def test_too_long_a_path_is_told_by_every_command_in_one_line(command):
    result = edufast(command, "x" * 300, code=2 if command in ("train", "recipes") else 1)
    assert result.stderr.startswith("edufast: ") and result.stderr.count("\n") == 1


def _too_much_of_numpy():
    np.empty(2**60, np.uint8)


def _too_much_of_torch():
    torch.empty(2**60, dtype=torch.uint8)


def _too_much_of_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. See\nadvice")


@pytest.mark.parametrize(
    ("allocate", "message"),
    [
        (_too_much_of_numpy, "Unable to allocate 1.00 EiB"),
        (_too_much_of_torch, "you tried to allocate 1152921504606846976 bytes"),
        (_too_much_of_a_gpu, "CUDA out of memory. Tried to allocate 2.00 GiB\n"),
    ],
)
def test_too_little_memory_is_one_line(allocate, message, capsys):
    with pytest.raises(typer.Exit) as ended:
        user(allocate)
    assert ended.value.exit_code == 1
    line = capsys.readouterr().err
    assert line.startswith("edufast: there is not enough memory: ") and line.count("\n") == 1
    assert message in line


def test_warnings_of_the_package_are_one_line_and_others_as_ever(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda *found: others.append(found[0]))
    others = []
    before = warnings.showwarning
    with warnings_in_one_line():
        warnings.showwarning(UserWarning("3 files [left]\n  out"), UserWarning, OURS, 1)
        assert capsys.readouterr().err == "warning: 3 files [left] out\n" and not others
        warnings.showwarning("a user's", UserWarning, "mine.py", 1)
        warnings.showwarning("outdated", DeprecationWarning, OURS, 1)
        assert others == ["a user's", "outdated"] and not capsys.readouterr().err
    assert warnings.showwarning is before


def test_other_errors_pass():
    def broken():
        raise TrainingError("loss is nan")

    with pytest.raises(TrainingError):
        user(broken)


def test_fail_ends_with_its_code():
    with pytest.raises(typer.Exit) as ended:
        fail("stopped", 130)
    assert ended.value.exit_code == 130


def test_control_characters_of_a_message_are_escapes(capsys):
    with pytest.raises(typer.Exit):
        fail("\x1b[31mrun\x9b2J\n\u3000 holds no run", 2)
    assert capsys.readouterr().err == "edufast: \\x1b[31mrun\\x9b2J\\n\u3000 holds no run\n"


def test_only_one_column_of_a_table_takes_several_lines(capsys):
    found = table("variant", "last epoch", "note", wraps="note")
    found.add_row("grades-without-teachers", "84.2 ± 1.3 %", "some words that go on and on")
    Console(width=60).print(found)
    first, *rest = capsys.readouterr().out.splitlines()[2:]
    assert first.split("   ")[:2] == ["grades-without-teachers", "84.2 ± 1.3 %"]
    assert rest and all(not line[:38].strip() for line in rest)


def test_a_command_prints_warnings_so(monkeypatch):
    def warn(*_):
        warnings.warn_explicit("look out", UserWarning, OURS, 1)
        raise UserError("over")

    monkeypatch.setattr("edufast.experiments.written.read_recipe", warn)
    assert edufast("recipes", "x", code=2).stderr == "warning: look out\nedufast: over\n"


POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}


def in_posix_locale(folder, *arguments):
    """A command in a locale of ASCII, which has no traceback; returns what it ends with."""
    process = subprocess.run(
        [sys.executable, "-m", "edufast", *map(str, arguments)],
        cwd=folder,
        env=os.environ | POSIX,
        capture_output=True,
        text=True,
        encoding="ascii",
    )
    assert "Traceback" not in process.stderr, process.stderr
    return process


def test_processes_in_a_locale_without_the_names_end_in_one_line(tmp_path, folder):
    recipe = tmp_path / "rezept-ü.yaml"
    content = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"name": "größe"}
    recipe.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    told = in_posix_locale(tmp_path, "recipes", recipe)
    assert told.returncode == 0 and "gr\\xf6\\xdfe" in told.stdout
    refused = in_posix_locale(tmp_path, "train", recipe)
    assert refused.returncode == 2
    message = (
        "'\\xf6\\xdf' cannot be written in this locale, whose encoding is ascii; expected UTF-8"
    )
    assert message in " ".join(refused.stderr.split())
    for options in (("--set", "name=größer"), ("--set", "student.model=größer")):
        process = in_posix_locale(tmp_path, "train", recipe, *options)
        assert process.returncode == 2 and "not valid YAML" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["rezept-ü.yaml"]


def test_processes_in_a_posix_locale_write_to_paths_of_any_name(tmp_path):
    weights = tmp_path / "gewichte-ü.safetensors"
    names = tuple("äöü")
    info = ModelInfo("resnet8", names, (0, 1, 2), "digits", 8, (0.3,) * 3, (0.2,) * 3, 0.5, 0, 0.0)
    save_model(weights, create_model("resnet8", 3), info)
    merged, exported = tmp_path / "mittel-ü.safetensors", tmp_path / "schüler.onnx"
    assert in_posix_locale(tmp_path, "merge", weights, weights, "-o", merged).returncode == 0
    assert read_info(merged).classes == names
    process = in_posix_locale(tmp_path, "export", merged, "-o", exported, "--json")
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["path"].endswith(".onnx") and exported.is_file()
