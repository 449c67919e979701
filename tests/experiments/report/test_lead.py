"""The first part of a report: the file to use, classes, pictures."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
from PIL import Image

from edufast.experiments.answers import Answers
from edufast.experiments.report.lead import lead
from edufast.experiments.run_log import RunLog
from tests.experiments.report.answered import answers, export

LOG = RunLog(exports=[export("student.onnx", 20 / 24, 300_000)])


def test_it_says_which_file_why_and_how_good_it_is():
    small = export("student-exit1.onnx", 0.82, 36_000)
    page = lead(replace(LOG, exports=[small]), None)
    assert page == "", "nobody asked the files"
    page = lead(replace(LOG, exports=[*LOG.exports, small]), answers())
    assert "<h2>The file to use: student.onnx</h2>" in page
    assert "most accurate of 2 files (student-exit1.onnx: 82.0 %, 36 kB)" in page
    assert ">83.3 %<" in page and ">64.1 % to 93.3 %, 95 % interval<" in page
    assert lead(RunLog(), answers()) == ""


def test_a_file_of_integers_that_nobody_asked_is_described_by_the_one_it_was_made_of():
    smaller = export("student.int8.onnx", 20 / 24, 100_000)
    page = lead(replace(LOG, exports=[*LOG.exports, smaller]), answers())
    assert "The file to use: student.int8.onnx" in page and "1 of 4" in page


def test_classes_and_what_they_are_taken_for_are_shown():
    page = lead(LOG, answers())
    assert "&lt;b&gt;one&lt;/b&gt;" in page and "<b>one</b>" not in page
    row = page.partition("&lt;b&gt;one&lt;/b&gt;</th>")[2].partition("</tr>")[0]
    assert re.findall("<td>(.*?)</td>", row) == [
        "10", "1 of 4", "5–70 %", "100.0 %", "two (3)"
    ]  # fmt: skip
    matrix = page.partition('class="matrix"')[2].partition("</table>")[0]
    cells = [re.findall("<td.*?>(.*?)</td>", row) for row in matrix.split("<tr>")[2:]]
    assert cells[1] == ["", "1", "3", "", "", ""] and cells[0] == ["4", "", "", "", "", ""]
    assert "--share:75%" in matrix


def test_many_classes_are_folded_and_only_their_confusions_shown():
    labels = np.arange(30).repeat(2)
    chosen = labels.copy()
    chosen[0] = 7
    names = tuple(f"class {c}" for c in range(30))
    file = {"student.onnx": chosen}
    many = Answers(names, np.full(30, 9), labels, (), file, {"student.onnx": np.ones(60)})
    page = lead(LOG, many)
    assert "The other 10 classes" in page and "matrix" not in page
    assert '<th scope="row">class 0, class 7</th><td>1</td>' in page


def test_pictures_are_shown_that_are_wrong_or_uncertain(tmp_path):
    page = lead(LOG, answers(tmp_path))
    figures = re.findall("<figure>.*?</figure>", page)
    names = [re.search("<small>(.*?)</small>", figure)[1] for figure in figures]
    wrong, unsure = names[:4], names[4:]
    assert wrong == [f"&lt;{i}&gt;.png" for i in (6, 7, 5, 16)]
    assert unsure == [f"&lt;{i}&gt;.png" for i in (0, 1, 2, 3, 4, 8, 9, 10)]
    assert "&lt;b&gt;one&lt;/b&gt;: taken for two (95%)" in figures[0]
    data = re.search('src="data:image/jpeg;base64,(.*?)"', figures[0])[1]
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (96, 96) and abs(shown.getpixel((48, 48))[0] - 60) < 8
    assert "This page contains these pictures" in page
    assert "<figure>" not in lead(LOG, answers())  # of arrays


def test_a_picture_that_is_gone_is_grey(tmp_path):
    some = answers(tmp_path)
    some.pictures[6].unlink()
    figure = re.findall("<figure>.*?</figure>", lead(LOG, some))[0]
    data = re.search('src="data:image/jpeg;base64,(.*?)"', figure)[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((48, 48)) == (128, 128, 128)
