"""The page of complete and partial runs."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from edufast.experiments.report import write_report
from edufast.experiments.report.plots import plots
from edufast.experiments.report.style import LIGHT
from edufast.experiments.run_log import read_run
from tests.experiments.logs import LEARNING, RUN, TEACHER, Event, complete, result, trial, write


class Page(HTMLParser):
    """The text of a page, its tags, and what they refer to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "srcset", "href", "data") and v]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0].startswith(first))


def test_results_table(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert page.row("education") == [
        "education", "2", "94.0 ± 1.4 %", "95.0 ± 1.4 %", "12,000", "0.50 ×", "2 GFLOP", "3 TFLOP",
        "40.0 s", "1 min 15 s",
    ]  # fmt: skip
    assert page.row("scratch")[5] == "1.00 ×"
    assert "held-out part of the training split" in page.text
    assert "equal student FLOPs" in page.text
    assert page.row("0")[1:4] == ["resnet14", "2", "97.0 %"]
    assert page.row("student.onnx")[1:7] == [
        "325 kB", "18", "95.4 %", "256 images", "100.00 %", "96.8 %"
    ]  # fmt: skip
    assert page.row("scratch, within") == [
        "scratch, within the slice", "94.0 ± 1.4 %", "94.0 ± 1.4 %", "96.0 ± 1.4 %"
    ]  # fmt: skip
    assert "Unfinished" not in page.text
    assert "1 × is 12 TFLOP" in page.text


def test_the_page_stands_alone(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert page.links and all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    style = (finished / "report.html").read_text("utf-8").partition("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_everything_is_escaped(finished: Path) -> None:
    page = Page(finished / "report.html")
    for text in (RUN["name"], RUN["dataset"], *RUN["classes"], "note: <img src=http://example"):
        assert text in page.text
    assert page.tags.count("img") == len(list((finished / "plots").iterdir()))


def test_one_method_with_one_seed(tmp_path: Path) -> None:
    events = [RUN, *trial("education", 0, LEARNING), result("education", 0, 0.95, 6e12)]
    run = write(tmp_path / "run", events)
    page = Page(write_report(run))
    assert page.row("education")[1:3] == ["1", "95.0 %"]
    assert {path.stem for path in (run / "plots").iterdir()} == {
        "accuracy", "grades", "forgetting-education", "throughput",
    }  # fmt: skip
    figure = plots(read_run(run / "metrics.jsonl"))[0].draw(LIGHT)
    assert not figure.axes[0].collections and not figure.legends
    assert "standard deviation over seeds" not in page.text


# Where a run can be cut: after the header, in the first epoch, within a grade, between grades,
# before the result.
@pytest.mark.parametrize(
    ("events", "notice"),
    [
        ([], "no student was trained yet"),
        ([RUN, TEACHER], "no student was trained yet"),
        ([RUN, *trial("education", 0, LEARNING)[:2]], "(seed 0) stopped after epoch 1 of grade 1"),
        ([*trial("education", 3, LEARNING)[:7]], "(seed 3) stopped after epoch 1 of grade 2"),
        ([RUN, *trial("education", 0, LEARNING)], "stopped after epoch 2 of grade 3"),
        (complete()[:-12], "scratch (seed 1) stopped after"),
    ],
)
def test_a_partial_run_says_so(tmp_path: Path, events: list[Event], notice: str) -> None:
    page = Page(write_report(write(tmp_path / "run", events)))
    assert "Unfinished run." in page.text and notice in page.text
