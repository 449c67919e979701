"""All benchmarks in one folder: what is there is kept, what cannot be measured is left out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edufast.bench import book
from edufast.bench.benchmark import Benchmark
from edufast.bench.benchmarks import BENCHMARKS
from edufast.utils.errors import UserError


class Bench:
    """Stands in for the measurements: writes results of the same form, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.benchmarks = tuple(
            replace(
                b,
                cases=lambda quick, device: ["<b>"],
                known=lambda case: {"contest": case},
                title=lambda result: result["contest"],
                measurer=self.measurer(b),
                shown=lambda results: [],
                illustrate=partial(self.illustrate, b),
            )
            for b in BENCHMARKS
        )

    def measurer(self, benchmark: Benchmark[Any]) -> Any:
        numbers = {"median": 2e-3, "low": 1e-3, "high": 3e-3}

        def begin(quick: bool, device: str, report: object) -> Any:
            self.calls.append((benchmark.name, quick))
            if benchmark.name == "export":
                raise UserError("exporting <files> needs onnx")
            found = {benchmark.rivals[0]: numbers, "ours": {**numbers, "median": 1e-3}}
            return lambda case: {"results": found}

        return begin

    def illustrate(self, benchmark: Benchmark[Any], folder: Path, *_: object) -> None:
        (folder / f"{benchmark.name}.png").write_bytes(b"picture")


@pytest.fixture
def bench(monkeypatch):
    stand_in = Bench()
    monkeypatch.setattr(book, "BENCHMARKS", stand_in.benchmarks)
    return stand_in


def run(out: Path, quick: bool = True, html: bool = True) -> list[str]:
    said: list[str] = []
    book.main(quick, html, out, "cpu", None, said.append)
    return said


def test_the_page_holds_all_of_it(bench, tmp_path):
    said = run(tmp_path)
    assert said[-1] == f"page: {tmp_path / 'index.html'}"
    text = (tmp_path / "index.html").read_text("utf-8")
    assert [f"<h2>{b.heading}</h2>" in text for b in BENCHMARKS] == [True] * len(BENCHMARKS)
    assert text.count("data:image/png;base64,") == len(BENCHMARKS) - 1
    assert (
        "exporting &lt;files&gt; needs onnx" in text and "&lt;b&gt;" in text and "<b>\n" not in text
    )
    assert re.search(
        r"<th scope=\"row\">\u2003ours</th><td>1 ms</td><td>1 ms to 3 ms</td><td>2.00<", text
    )
    assert "torch <b>" in text and "commit <b>" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_what_is_there_is_not_measured_again(bench, tmp_path):
    run(tmp_path, html=False)
    assert not (tmp_path / "index.html").exists()
    bench.calls.clear()
    said = run(tmp_path)
    assert bench.calls == [("export", True)] and "kd_loss: measured already" in said
    assert (tmp_path / "index.html").exists()
    bench.calls.clear()
    run(tmp_path, quick=False)  # quick results are no substitute
    assert [name for name, _ in bench.calls] == [b.name for b in BENCHMARKS]
    bench.calls.clear()
    run(tmp_path)
    assert bench.calls == [("export", True)]


def test_a_run_that_is_stopped_goes_on(bench, tmp_path, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    first, second, *rest = bench.benchmarks
    monkeypatch.setattr(book, "BENCHMARKS", (first, replace(second, measurer=stopped), *rest))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert first.heading in (tmp_path / "index.html").read_text("utf-8")
    monkeypatch.setattr(book, "BENCHMARKS", bench.benchmarks)
    bench.calls.clear()
    run(tmp_path)
    assert bench.calls[0] == (second.name, True)


def test_what_torch_cannot_do_here_is_left_out(bench, tmp_path, monkeypatch):
    def failing(*_: object) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    first, *rest = bench.benchmarks
    monkeypatch.setattr(book, "BENCHMARKS", (replace(first, measurer=failing), *rest))
    said = run(tmp_path)
    line = f"{first.name} is left out: CUDA out of memory. Tried to allocate"
    assert line in said and [name for name, _ in bench.calls] == [b.name for b in rest]
    assert "Left out: CUDA out of memory. Tried" in (tmp_path / "index.html").read_text("utf-8")


def test_results_of_another_machine_or_commit_are_told_before_anything_is_measured(bench, tmp_path):
    run(tmp_path)
    (tmp_path / "kd_loss.json").unlink()
    path = tmp_path / "train.json"
    content = json.loads(path.read_text())
    content["machine"]["commit"] = "another"
    path.write_text(json.dumps(content))
    bench.calls.clear()
    with pytest.raises(UserError, match=r"train.json: commit 'another' and .*; choose another"):
        run(tmp_path)
    assert bench.calls == []
