"""The progress of a training: a bar for a terminal, and a line for every epoch elsewhere."""

from __future__ import annotations

import pytest

from edufast.utils.progress import TrainingBar, counting


@pytest.fixture
def terminal(monkeypatch):
    """Standard error is taken for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def pipe(monkeypatch):
    """Standard error is a pipe, whatever the tests run in."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setenv("COLUMNS", "120")


def train(grades: int) -> None:
    with TrainingBar("education", grades) as bar:
        bar.start_epoch(1, 2, 4, steps=30)
        bar.update(7, 1.23456, 1234.5)
        bar.end_epoch(0.5, 0.875, 98765.4)
        bar.say("compiled: as requested")


def test_a_pipe_gets_a_line_for_an_epoch_and_no_bar(pipe, capsys):
    train(grades=3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "education: grade 2/3, epoch 3/4: loss 0.500, accuracy 87.5%, 98,765 images/s",
        "compiled: as requested",
    ]


def test_quiet_is_silent(pipe, capsys):
    with TrainingBar("education", 1, quiet=True) as bar:
        bar.start_epoch(0, 0, 1, steps=30)
        bar.end_epoch(0.5, 0.875, 98765.4)
    assert capsys.readouterr() == ("", "")


def test_an_only_grade_has_no_number(pipe, capsys):
    train(grades=1)
    assert capsys.readouterr().err.startswith("education: epoch 3/4: loss")


def test_a_terminal_gets_a_bar_that_shows_how_far_the_epoch_is(terminal, capsys):
    train(grades=3)
    shown = capsys.readouterr().err
    assert "education: grade 2/3, epoch 3/4" in shown
    for number in ("7/30", "loss 1.235", "1,234 images/s", "accuracy 87.5%"):
        assert number in shown


def test_every_epoch_begins_at_zero(terminal, capsys):
    with TrainingBar("education", 1) as bar:
        bar.start_epoch(0, 0, 2, steps=30)
        bar.update(30, 0.1, 1.0)
        bar.start_epoch(0, 1, 2, steps=20)
        capsys.readouterr()
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown and "0/20" in shown and "loss" not in shown


def test_counting_adds_up_what_is_done(terminal, capsys):
    with counting("teachers' logits", 500) as advance:
        advance(256)
        advance(44)
    shown = capsys.readouterr().err
    assert "teachers' logits" in shown and "300/500" in shown


def test_counting_has_no_total_where_none_is_known(terminal, capsys):
    with counting("unpacking", None) as advance:
        advance(70)
    assert "70/?" in capsys.readouterr().err


def test_counting_is_silent_in_a_pipe(pipe, capsys):
    with counting("teachers' logits", 10) as advance:
        advance(10)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_brackets_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingBar("y[/b]", 1) as bar:
        bar.start_epoch(0, 0, 1, 1)
        bar.end_epoch(0.5, 0.25, 10)
    with counting("[x", 1) as advance:
        advance(1)
    assert capsys.readouterr().err.startswith("y[/b]: epoch 1/1: loss 0.500")


def test_a_note_ends_the_line_of_its_epoch_and_stays_on_the_bar(terminal, capsys):
    with TrainingBar("education", 1) as bar:
        bar.start_epoch(0, 0, 2, steps=30)
        bar.end_epoch(0.5, 0.875, 100.0, "about 2 min left")
        line = capsys.readouterr().err
        bar.start_epoch(0, 1, 2, steps=30)
        bar.update(7, 0.5, 100.0)
    assert "100 images/s, about 2 min left" in line
    assert "about 2 min left" in capsys.readouterr().err
