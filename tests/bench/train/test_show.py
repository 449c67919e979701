"""Results of a contest, shown: speeds, speedups and what compiling pays back."""

from __future__ import annotations

import pytest

from edufast.bench.train import show
from edufast.bench.train.costs import EPOCHS
from edufast.bench.train.setting import PAIRS


def test_payback_counts_steps_until_compiling_has_saved_its_time():
    scores = {
        show.CAREFUL: {"images_per_second": 200.0, "speeds": [200.0, 20.0], "startup": 10.0},
        show.CAREFUL_EAGER: {"images_per_second": 100.0, "speeds": [100.0, 10.0], "startup": 0.0},
    }
    result = {"results": scores, "batch_size": 10}
    assert show.speedup(result, show.CAREFUL, show.CAREFUL_EAGER) == 2
    assert show.payback(result, show.CAREFUL) == "10.0 s, 200 steps"  # 0.05 s of each step
    scores[show.CAREFUL]["speeds"] = [99.0, 9.0]
    assert show.payback(result, show.CAREFUL) == "10.0 s, never"
    assert show.payback(result, show.CAREFUL_EAGER) == ""


@pytest.mark.parametrize(("value", "text"), [(9.87, "9.9"), (99.94, "99.9"), (12345.6, "12,346")])
def test_speeds_keep_three_digits_or_more(value, text):
    assert show.number(value) == text


def scored(speeds: list[float], **others: float) -> dict:
    middle = sorted(speeds)[len(speeds) // 2]
    return {"images_per_second": middle, "speeds": speeds, "data_wait": 0, "startup": 0} | others


@pytest.fixture
def result(pair, monkeypatch) -> dict:
    monkeypatch.setitem(PAIRS, "tiny-net", pair)
    scores = {
        show.PLAIN: scored([10.0, 20.0, 40.0], data_wait=0.125),
        show.CAREFUL_EAGER: scored([20.0, 50.0, 80.0]),
        show.CAREFUL: scored([15.0, 40.0, 60.0], startup=3.0),
        show.ROUTED: scored([40.0, 80.0, 200.0]),
        show.FLOOR: scored([100.0, 200.0, 400.0]),
        show.FLOOR_CACHED: scored([200.0, 400.0, 800.0]),
    }
    return {"pair": "tiny-net", "batch_size": 10, "epoch_samples": 1000, "results": scores}


def test_a_line_compares_with_the_plain_loop_and_the_faster_careful_one(result):
    lines = {line[0]: line for line in show.rows(result)}
    assert set(map(len, lines.values())) == {len(show.COLUMNS)}
    # Round by round it is 4, 4 and 5 times the plain loop; the compiled careful one is no rival.
    assert lines[show.ROUTED][1:7] == ("80.0", "40.0–200", "4.00", "2.00", "12.5 s", "0.0%")
    assert lines[show.PLAIN][3:7] == ("1.00", "0.50", "50.0 s", "12.5%")
    assert lines[show.CAREFUL][7] == "3.0 s, never"


def test_markdown_holds_every_table_once(result, pair):
    machine = {"cpu": "a CPU", "threads": 2, "torch": "2", "load": 0.5}
    text = show.markdown(machine, [result, {**result, "batch_size": 20}])
    assert text.startswith("a CPU, 2 threads, torch 2, CPU only; load at start 0.5.")
    assert [line for line in text.splitlines() if line.startswith("**")] == [
        "**tiny → net, batch 10**",
        "**tiny → net, batch 20**",
        f"**tiny → net, {EPOCHS} epochs**",
    ]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.count("|") - 1 for line in tables]
    assert widths == [len(show.COLUMNS)] * 16 + [len(show.COST_COLUMNS)] * (len(widths) - 16)


def test_a_plot_is_drawn_for_one_contest_and_for_several(result):
    for results in ([result], [result, result]):
        assert show.plot(results).startswith(b"\x89PNG")
