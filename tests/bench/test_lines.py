"""Results line by line: kept at once, measured once."""

from __future__ import annotations

import pytest

from edufast.bench.lines import Lines


def test_what_was_measured_is_not_measured_again(tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    Lines(path).measure("a", lambda: {"us": 1.5, "kernels": 3})
    assert capsys.readouterr().out == "a: us 1.5, kernels 3\n"
    later = Lines(path)
    later.measure("a", lambda: pytest.fail("measured again"))
    later.measure("b", lambda: {"us": 2.0})
    assert [*Lines(path)] == [{"name": "a", "us": 1.5, "kernels": 3}, {"name": "b", "us": 2.0}]


def test_what_fails_is_one_line_and_tried_again(tmp_path, capsys):
    lines = Lines(tmp_path / "lines.jsonl")

    def fails():
        raise RuntimeError("no such kernel\nbacktrace")

    lines.measure("a", fails)
    assert capsys.readouterr().out == "a: FAILED: RuntimeError: no such kernel\n"
    lines.measure("a", lambda: {"us": 1.0})
    assert "a" in Lines(tmp_path / "lines.jsonl")


@pytest.mark.parametrize("kept", ["", '{"name": "a", "us": 1.0}\n'])
def test_a_line_that_a_killed_process_left_incomplete_is_dropped(tmp_path, kept):
    path = tmp_path / "lines.jsonl"
    path.write_text(kept + '{"name": "b", "u')
    lines = Lines(path)
    assert "b" not in lines and ("a" in lines) == bool(kept)
    lines.measure("b", lambda: {"us": 2.0})
    assert len([*Lines(path)]) == 1 + bool(kept)
