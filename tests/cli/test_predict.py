"""The command that predicts pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edufast.cli.predict import _print_table
from edufast.edge import predict
from tests.commands import edufast, events, one_line


@pytest.fixture(scope="module")
def pictures(folder):
    return folder / "pictures" / "val"


def lines(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_run_predicts_what_its_validation_measured(run, pictures):
    found = lines(edufast("predict", run, pictures, "--json"))
    assert len(found) == 48 and found[0]["picture"] == str(pictures / "c0" / "0.png")
    right = [line["picture"].split("/")[-2] == line["class"] for line in found]
    (measured,) = [
        e["accuracy"] for e in events(run) if e["event"] == "result" and e["method"] == "education"
    ]
    assert sum(right) / len(right) == pytest.approx(measured)


def test_runners_up_follow_in_the_order_of_their_probability(run, pictures):
    (line,) = lines(edufast("predict", run, pictures / "c1" / "8.png", "--top", 6, "--json"))
    shares = [line["probability"], *(other["probability"] for other in line["runners_up"])]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    assert {line["class"], *(other["class"] for other in line["runners_up"])} == {
        f"c{c}" for c in range(6)
    }
    (line,) = lines(edufast("predict", run, pictures / "c1" / "8.png", "--top", 1, "--json"))
    assert line["runners_up"] == []


def test_a_table_shows_all_runners_up_however_narrow(run, pictures):
    shown = edufast("predict", run, pictures / "c1" / "8.png", "--top", 6).stdout
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    assert all(f"c{c} " in shown or f"c{c}\n" in shown for c in range(6))


def test_the_table_has_a_row_for_each_picture(run, pictures, tmp_path, monkeypatch):
    shutil.copytree(pictures / "c0", tmp_path / "c0")
    monkeypatch.chdir(tmp_path)
    said = lines(edufast("predict", run, "c0", "--json"))
    heads, _, *rows = edufast("predict", run / "student.onnx", "c0").stdout.splitlines()
    assert heads.split() == ["picture", "class", "probability", "runner-up"]
    for row, line in zip(rows, said, strict=True):
        (other,) = line["runners_up"]
        assert row.split() == [
            line["picture"],
            line["class"],
            f"{line['probability']:.1%}",
            other["class"],
            f"{other['probability']:.1%}",
        ]
    assert (
        edufast("predict", run / "student.onnx", "c0", "--top", 1).stdout.splitlines()[0].split()
        == heads.split()[:3]
    )


def test_of_a_run_with_exits_every_exit_answers_with_its_confidence_and_its_time(run, pictures):
    (line,) = lines(edufast("predict", run, pictures / "c1" / "8.png", "--json"))
    said = {each["file"]: each for each in [line, *line["others"]]}
    assert list(said) == ["student.onnx", "student-exit1.onnx", "student-exit2.onnx"]
    for file, each in said.items():
        (alone,) = lines(edufast("predict", run / file, pictures / "c1" / "8.png", "--json"))
        assert alone["class"] == each["class"] and each["milliseconds"] > 0
        assert alone["probability"] == pytest.approx(each["probability"], abs=1e-4)
    heads, _, *rows = edufast(
        "predict", run, pictures / "c1" / "8.png", columns=200
    ).stdout.splitlines()
    assert heads.split()[-2:] == ["file", "time"] and len(rows) == 3
    assert [row.split()[-3] for row in rows] == list(said)


@pytest.mark.parametrize("exit", [None, 2])
def test_where_a_picture_left_is_told_of_files_that_have_exits(exit, capsys):
    probabilities = np.array([0.75, 0.25], np.float32)
    said = predict.Prediction(Path("a.png"), ("x", "y"), probabilities, 1.0, exit)
    _print_table([{"student.onnx": said}], 1, 1)
    heads, _, row = capsys.readouterr().out.splitlines()
    told = ["file", "time", "exit"] if exit else []
    assert heads.split() == ["picture", "class", "probability", *told]
    assert row.split() == [
        "a.png",
        "x",
        "75.0%",
        *(["student.onnx", "1.00", "ms", "2"] * bool(exit)),
    ]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_others_are_predicted_where_a_picture_is_corrupt(run, pictures, options, tmp_path):
    shutil.copytree(pictures / "c0", tmp_path / "c0")
    (tmp_path / "c0" / "1.png").write_bytes(b"no picture")
    (tmp_path / "c0" / "notes.txt").write_bytes(b"")
    result = edufast("predict", run, tmp_path / "c0", *options, code=1)
    names = "".join(
        line.removeprefix('{"picture": "').split()[0] for line in result.stdout.splitlines()
    )
    for number in range(8):  # whole also where the terminal is narrow
        assert (f"{tmp_path}/c0/{number}.png" in names) == (number != 1)
    assert result.stderr.splitlines() == [
        "warning: 8 pictures are used, 1 entries left out: 1 .txt",
        f"edufast: image file {tmp_path / 'c0' / '1.png'}: cannot be read or decoded",
    ]


def test_names_that_cannot_be_printed_are_written_as_python_does(run, pictures, tmp_path):
    odd = bytes(tmp_path) + b"/caf\xe9\n.png"
    shutil.copy(pictures / "c0" / "0.png", odd)
    (line,) = lines(edufast("predict", run, tmp_path, "--json"))
    assert line["picture"].endswith("caf\udce9\n.png")
    assert "caf\\udce9\\n.png" in edufast("predict", run, tmp_path, columns=200).stdout


def test_ctrl_c_shows_what_is_done_and_ends_in_one_line(run, pictures, monkeypatch):
    whole = predict.predict_each

    def interrupted(models, files):
        yield from whole(models, files[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict_each", interrupted)
    result = edufast("predict", run, pictures / "c0", columns=200, code=130)
    assert "c0/0.png" in result.stdout and "c0/1.png" not in result.stdout
    assert result.stderr == "edufast: stopped\n"


def test_what_is_wrong_is_told_in_one_line(run, pictures, tmp_path):
    for arguments, message in (
        ((tmp_path, pictures), "has no student.onnx; write it with: edufast export"),
        ((tmp_path / "m.onnx", pictures), "does not exist; expected an .onnx file or a run folder"),
        ((run, tmp_path / "a.png"), "does not exist; expected a file or a folder"),
        ((run, tmp_path), "no pictures; expected files, or folders that hold .bmp, "),
    ):
        said = one_line(edufast("predict", *arguments, code=2))
        assert said.startswith("edufast: ") and message in said


def test_a_run_has_the_script_beside_its_student_and_the_report_says_so(run, folder):
    script = (run / "predict.py").read_text()
    assert "onnxruntime" in script and "edufast" not in script
    page = (run / "report.html").read_text()
    assert "python predict.py student.onnx" in page and "edufast predict" in page
    old = folder / "exported again"
    shutil.copytree(run, old)
    (old / "predict.py").unlink()
    edufast("export", old)
    assert (old / "predict.py").read_text() == script
    edufast("export", old / "student.safetensors", "--out", old / "elsewhere" / "s.onnx")
    assert not (old / "elsewhere" / "predict.py").exists()
