"""Options and arguments that are empty: what a shell makes of a variable that is not set."""

import os
from pathlib import Path

import pytest
import typer

from edufast.cli.options import out_path, path_of, text_of
from tests.commands import edufast, one_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ((*command, "--out", ""), "--out is ''; expected a file or folder")
            for command in (
                ("teach", "quickstart"),
                ("train", "quickstart"),
                ("compare", "quickstart"),
                ("sweep", "quickstart"),
                ("export", "run"),
                ("merge", "a", "b"),
                ("bench", "kd"),
                ("bench", "merge"),
                ("bench", "train"),
            )
        ),
        (("train", "quickstart", "-o", " "), "--out is ' '; expected a file or folder"),
        (("train", "quickstart", "--data", ""), "--data is ''; expected a file or folder"),
        (("train", "quickstart", "--teachers", ""), "--teachers is ''; expected a file or"),
        (("compare", "quickstart", "--cache", ""), "--cache is ''; expected a file or folder"),
        (("compare", "quickstart", "--methods", ""), "--methods is ''; expected one of"),
        (("sweep", "quickstart", "--only", ""), "--only is ''; expected one of"),
        (("sweep", "quickstart", "--vary", ""), "--vary: expected key.subkey=value,value"),
        (("train", "quickstart", "--set", ""), "--set: expected key.subkey=value"),
        (("train", "quickstart", "--device", ""), "--device is ''; expected cpu"),
        (("train", "digits", "--log", ""), "--log is ''; expected text"),
        (("train", "digits", "--log", "tensorbord"), "--log is 'tensorbord'; did you mean 'tens"),
        (("train", ""), "recipe is ''; expected one of"),
        (("recipes", ""), "recipe is ''; expected one of"),
        (("train", "quickstart", "--set", "student.weights="), "expected a value behind '='; null"),
        (("train", "folder", "--data", "NONE.CSV"), "data source 'manifest:"),
        (("train", "quickstart", "--set", "name=''"), "name: found ''; string should match"),
        (("resume", ""), "run is ''; expected a file or folder"),
        (("export", ""), "source is ''; expected a file or folder"),
        (("export", "run", "--data", ""), "--data is ''; expected text"),
        (("export", "run", "--model", ""), "--model is ''; expected text"),
        (("merge", "a", "", "-o", "c"), "files is ''; expected a file or folder"),
        (("merge", "a", "b", "-o", "c", "--weights", ""), "--weights: ''; expected numbers"),
        (("predict", "", "a.png"), "model is ''; expected a file or folder"),
        (("predict", "run", ""), "pictures is ''; expected a file or folder"),
        (("data", ""), "source is ''; expected text"),
        (("data", "digits", "--contact-sheet", ""), "--contact-sheet is ''; expected a file or"),
        (("bench", "train", "--pairs", ""), "--pairs is ''; expected text"),
        (("bench", "train", "--batch", ""), "--batch is ''; expected text"),
    ],
)
def test_nothing_is_no_value(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = one_line(edufast(*arguments, code=2))
    assert text.startswith("edufast: ") and message in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize("seeds", [0, 10_001, 2**63])
def test_seeds_are_as_many_as_an_experiment_can_have(command, seeds):
    result = edufast(command, "quickstart", "--seeds", seeds, code=2)
    assert "Invalid value for '--seeds'" in result.stderr


@pytest.mark.parametrize("arguments", [("compare", "quickstart", "--seeds", "")])
def test_nothing_is_no_number(arguments):
    assert "Invalid value for '--seeds'" in edufast(*arguments, code=2).stderr


def test_anything_else_is_as_typed():
    assert path_of("--out")("a b") == Path("a b") and text_of("--data")(" a") == " a"


def test_a_name_to_write_that_is_not_utf_8_is_refused_before_anything_is_trained(capfd):
    name = os.fsdecode(b"caf\xe9")
    assert path_of("pictures")(name) == Path(name)  # Pillow reads those
    with pytest.raises(typer.Exit) as error:
        out_path(name)
    assert error.value.exit_code == 2
    assert r"--out is 'caf\udce9'; expected a name in UTF-8" in capfd.readouterr().err
    assert out_path("é") == Path("é")


def test_a_path_may_begin_with_a_tilde(monkeypatch):
    """Shells leave that of --out=~/runs as it is, and a folder called ~ would be made."""
    monkeypatch.setenv("HOME", "/home/me")
    assert out_path("~/runs/a") == path_of("run")("~/runs/a") == Path("/home/me/runs/a")
    assert out_path("a~/b") == Path("a~/b")
