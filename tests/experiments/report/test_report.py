"""Reports of complete, partial and damaged runs, checked on the page and on the figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edufast.experiments.report import read_run, write_report
from edufast.utils.errors import UserError

pytest.importorskip("matplotlib")
from edufast.experiments.report import format as fmt
from edufast.experiments.report.forgetting import accuracy_matrix, caption
from edufast.experiments.report.plots import plots
from edufast.experiments.report.style import DARK, LIGHT, readable

Event = dict[str, Any]


def trial(method: str, seed: int, accuracies: list[list[float]]) -> list[Event]:
    """Events of one trial: accuracies of the epochs of each grade."""
    events: list[Event] = []
    samples = 0
    total = len(accuracies)
    for grade, epochs in enumerate(accuracies, start=1):
        about = {"method": method, "seed": seed, "grade": grade}
        for epoch, accuracy in enumerate(epochs):
            samples += 1000 * grade
            step = {"step": 0, "loss": 1.0, "lr": 0.1, "images_per_second": 900.0}
            events.append({"event": "step", **about, "epoch": epoch, **step})
            events.append(
                {
                    "event": "epoch",
                    **about,
                    "epoch": epoch,
                    "samples": samples,
                    "accuracy": accuracy,
                    "loss": 1.0,
                    "images_per_second": 1000.0 / grade,
                    "student_flops": 1e9 * samples,
                    "teacher_flops": 0.0,
                }
            )
        of_slice = [max(0.0, epochs[-1] - 0.1 * (grade - s)) for s in range(1, grade + 1)]
        blank: list[float | None] = [None] * (total - grade)
        events.append(
            {
                "event": "grade",
                **about,
                "classes": 2 * grade,
                "fragments": grade,
                "accuracy": epochs[-1],
                "slice_accuracy": of_slice + blank,
                "slice_accuracy_masked": [min(1.0, a + 0.05) for a in of_slice] + blank,
            }
        )
    return events


def result(method: str, seed: int, accuracy: float, flops: float) -> Event:
    return {
        "event": "result",
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "best_accuracy": accuracy + 0.01,
        "best_epoch": 5,
        "slice_accuracy": [accuracy - 0.1, accuracy, accuracy + 0.01],
        "slice_accuracy_masked": [accuracy, accuracy, accuracy + 0.02],
        "samples": 12000,
        "student_flops": flops,
        "teacher_flops": 2e9,
        "teacher_training_flops": 3e12,
        "teacher_training_seconds": 40.0,
        "seconds": 75.0,
    }


RUN: Event = {
    "event": "run",
    "name": "tiny <script>alert(1)</script>",
    "dataset": "digits & more",
    "classes": ['"zero"', "<b>one</b>", "two", "three", "four", "five"],
    "num_classes": 6,
    "device": "cpu",
    "torch": "2.14.1",
    "student": "resnet8",
    "split": "holdout",
    "equal": "flops",
    "slices": [[0, 1], [2, 3], [4, 5]],
    "grades": [
        {"grade": g, "fragments": g, "classes": 2 * g, "epochs": 2, "target": "routed"}
        for g in (1, 2, 3)
    ],
}
TEACHER: Event = {
    "event": "teacher",
    "teacher": 0,
    "model": "resnet14",
    "classes": [0, 1],
    "accuracy": 0.97,
    "seconds": 12.3,
    "flops": 1.2e12,
    "samples": 8000,
}
EXPORT: Event = {
    "event": "export",
    "path": "student.onnx",
    "opset": 18,
    "bytes": 325_000,
    "accuracy": 0.954,
    "samples": 256,
    "agreement": 1.0,
    "accuracy_torch": 0.968,
    "accuracy_onnx": 0.968,
    "max_abs_difference": 1e-5,
}
LEARNING = [[0.5, 0.9], [0.7, 0.8], [0.75, 0.95]]


def complete() -> list[Event]:
    """Two methods, two seeds."""
    events = [RUN, TEACHER]
    for method, flops in (("education", 6e12), ("scratch", 1.2e13)):
        for seed in (0, 1):
            shifted = [[a - 0.02 * seed for a in epochs] for epochs in LEARNING]
            at_once = [[accuracy for epochs in shifted for accuracy in epochs]]
            accuracies = shifted if method == "education" else at_once
            events += trial(method, seed, accuracies)
            events.append(result(method, seed, accuracies[-1][-1], flops))
        events += [
            {"event": "phase", "method": method, "seed": seed, "phase": phase, "seconds": seconds}
            for phase, seconds in (("data", 5.0), ("student", 60.0), ("other <i>", 1.0))
            for seed in (0, 1)
        ]
    return [*events, EXPORT]


def write(folder: Path, events: Iterable[Event]) -> Path:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write(tmp_path_factory.mktemp("report") / "run", complete())
    (run / "config.yaml").write_text("note: <img src=http://example.org/x.png>\n")
    assert write_report(run) == run / "report.html"
    return run


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
    assert "1 × = 12 TFLOP" in page.text


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


def test_plots_lie_beside_the_page(finished: Path) -> None:
    pictures = {path.name: path.read_bytes() for path in (finished / "plots").iterdir()}
    # scratch has one grade: nothing can be forgotten, and no matrix is drawn.
    assert set(pictures) == {
        f"{name}.png"
        for name in (
            "accuracy", "grades", "forgetting-education", "throughput", "time", "flops", "cost"
        )
    }  # fmt: skip
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_writing_again_gives_the_same_page(finished: Path) -> None:
    before = (finished / "report.html").read_bytes()
    write_report(finished)
    assert (finished / "report.html").read_bytes() == before
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "plots", "report.html"}


def test_phases_add_up_over_seeds(tmp_path):
    log = read_run(write(tmp_path, complete()))
    assert log.methods["education"].phases == {"data": 10.0, "student": 120.0, "other <i>": 2.0}


def test_accuracy_plot(finished: Path) -> None:
    figure = {plot.name: plot for plot in plots(read_run(finished))}["accuracy"].draw(LIGHT)
    (axis,) = figure.axes
    lines = {line.get_label(): line for line in axis.lines}
    x, y = lines["education"].get_data()
    assert list(x) == [1000, 2000, 4000, 6000, 9000, 12000]
    assert list(y) == pytest.approx([0.49, 0.89, 0.69, 0.79, 0.74, 0.94])
    boundaries = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"]
    assert boundaries == [2000, 6000]
    assert len(axis.collections) == 2, "a band for each method"


def test_accuracy_against_flops_shows_epochs_that_know_all_classes(finished: Path) -> None:
    figure = {plot.name: plot for plot in plots(read_run(finished))}["flops"].draw(LIGHT)
    (axis,) = figure.axes
    lines = {container.get_label(): container.lines[0] for container in axis.containers}
    x, y = lines["education"].get_data()
    assert list(x) == [9e12, 12e12] and list(y) == pytest.approx([0.74, 0.94])
    assert len(lines["scratch"].get_xdata()) == 6


def test_forgetting_matrix(finished: Path) -> None:
    education = read_run(finished).methods["education"]
    matrix = accuracy_matrix(education, "slice_accuracy")
    assert matrix is not None and matrix.shape == (3, 3)
    assert matrix[2].tolist() == pytest.approx([0.74, 0.84, 0.94])
    assert [[bool(v == v) for v in row] for row in matrix] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    # Slice 1: 0.89 to 0.74; slice 2: 0.79 to 0.84, which is no fall but a gain.
    assert "best: 5.0 points" in caption(education)


def test_one_method_with_one_seed(tmp_path: Path) -> None:
    events = [RUN, *trial("education", 0, LEARNING), result("education", 0, 0.95, 6e12)]
    run = write(tmp_path / "run", events)
    page = Page(write_report(run))
    assert page.row("education")[1:3] == ["1", "95.0 %"]
    assert {path.stem for path in (run / "plots").iterdir()} == {
        "accuracy", "grades", "forgetting-education", "throughput",
    }  # fmt: skip
    figure = plots(read_run(run))[0].draw(LIGHT)
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


def test_events_without_their_optional_keys(tmp_path: Path) -> None:
    events: list[Event] = [
        {"event": "teacher", "teacher": 1, "accuracy": 0.5},
        {"event": "epoch", "method": "x", "seed": 0, "grade": 1, "epoch": 0, "samples": 5,
         "accuracy": 0.5},
        {"event": "grade", "method": "x", "seed": 0, "grade": 1, "accuracy": 0.5},
        {"event": "result", "method": "x", "seed": 0, "accuracy": 0.5},
        {"event": "phase", "method": "x", "seed": 0, "phase": "data", "seconds": 0.0},
        {"event": "export", "path": "x.onnx", "agreement": 1.0},
        {"event": "from a later version"},
    ]  # fmt: skip
    page = Page(write_report(write(tmp_path / "run", events)))
    assert page.row("x") == ["x", "1", "50.0 %", *["–"] * 7]


def test_many_slices_and_methods(tmp_path: Path) -> None:
    """Enough of both that labels and colours run out."""
    events = [e for i in range(12) for e in trial(f"method {i}", 0, [[0.5]] * 30)]
    run = write(tmp_path / "run", events)
    for plot in plots(read_run(run))[:4]:
        for theme in (LIGHT, DARK):
            plot.draw(theme).canvas.draw()


def test_a_resumed_run_supersedes_what_it_repeats(tmp_path: Path) -> None:
    first = trial("education", 0, LEARNING)
    again = trial("education", 0, [*LEARNING[:2], [0.1, 0.2]])[10:]
    log = read_run(write(tmp_path / "run", [RUN, *first, *again]))
    (only,) = log.methods["education"].trials.values()
    assert [e["accuracy"] for e in only.epochs] == [0.5, 0.9, 0.7, 0.8, 0.1, 0.2]
    assert [e["accuracy"] for e in only.grades] == [0.9, 0.8, 0.2]


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [RUN, *trial("education", 0, LEARNING)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epoch", "method": "educ')
    assert len(read_run(run).methods["education"].trials[0].epochs) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"event": "epo', r"metrics\.jsonl:2: "),
        ("[1, 2]", r'metrics\.jsonl:2: expected an object with a key "event"'),
        ('{"method": "education"}', r'metrics\.jsonl:2: expected an object with a key "event"'),
        (
            '{"event": "phase", "method": "kd", "seed": 0}',
            r'metrics\.jsonl:2: "phase" event without "phase"',
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(RUN)}\n{line}\n{json.dumps(TEACHER)}\n")
    with pytest.raises(UserError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no run directory: it has no metrics\.jsonl"):
        write_report(tmp_path)


def test_numbers() -> None:
    assert fmt.si(0, "FLOP") == "0 FLOP"
    assert fmt.si(999.6, "B") == "1 kB"
    assert fmt.si(1.234e12, "FLOP") == "1.23 TFLOP"
    assert [fmt.seconds(s) for s in (3.14159, 59.97, 75, 3599.7, 7260)] == [
        "3.1 s", "1 min 00 s", "1 min 15 s", "1 h 00 min", "2 h 01 min",
    ]  # fmt: skip
    assert fmt.spread([0.5]) == "50.0 %"
    assert fmt.spread([0.5, 0.6, 0.7]) == "60.0 ± 10.0 %"


def test_text_on_colours_is_readable() -> None:
    """At least 4:1 for every colour that text lies on."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in (LIGHT, DARK):
        pairs = [(theme.paper, theme.ink), (theme.paper, theme.faint)]
        pairs += [(colour, readable(colour)) for colour in (*theme.palette, *theme.ramp)]
        for pair in pairs:
            low, high = sorted(map(luminance, pair))
            assert (high + 0.05) / (low + 0.05) >= 4, pair
