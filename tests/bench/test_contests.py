"""Contests shown: every implementation has its line in the table and its marker in the plot."""

from __future__ import annotations

import io

from rich.console import Console

from edufast.bench.contests import _figure, contests_plot, contests_table


def numbers(microseconds: float, share: float) -> dict[str, float]:
    low, high = 0.5e-6 * microseconds, 2e-6 * microseconds
    return {"median": 1e-6 * microseconds, "low": low, "high": high, "share": share}


RESULTS = [
    {"size": 1, "results": {"eager": numbers(100, 0.5), "ours": numbers(50, 1.0)}},
    {"size": 2, "results": {"eager": numbers(200, 0.25), "rival": numbers(400, 0.125)}},
]


def title(result):
    return f"size {result['size']}"


def test_a_table_has_a_line_for_every_contest_and_implementation():
    columns = {"of a\ncopy": "{share:.0%}".format_map, "twice": lambda x: f"{2 * x['share']:.2f}"}
    file = io.StringIO()
    table = contests_table("what", "problem", RESULTS, title, columns)
    Console(file=file, width=80).print(table)
    heading, _, heads, _, *lines = file.getvalue().splitlines()
    assert heading.strip() == "what (median, quartiles)"
    assert heads.split() == ["problem", "µs", "spread", "copy", "twice"]
    assert [line.split() for line in lines if line.strip("─ ")] == [
        ["size", "1"],
        ["eager", "100", "50-200", "50%", "1.00"],
        ["ours", "50", "25-100", "100%", "2.00"],
        ["size", "2"],
        ["eager", "200", "100-400", "25%", "0.50"],
        ["rival", "400", "200-800", "12%", "0.25"],
    ]
    assert [row.end_section for row in table.rows] == [False, False, True] * 2


def test_a_plot_has_a_row_for_every_contest_and_markers_where_there_is_a_number(tmp_path):
    (axes,) = _figure(RESULTS, title, "share", "share of a copy").axes
    markers = {line.get_label(): line.get_xydata().tolist() for line in axes.lines[:-1]}
    assert markers == {
        "eager": [[0.5, 0.0], [0.25, 1.0]],
        "ours": [[1.0, 0.0]],
        "rival": [[0.125, 1.0]],
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["size 1", "size 2"]
    assert axes.get_xlabel() == "share of a copy"
    contests_plot(tmp_path / "a.png", RESULTS, title, "share", "share of a copy")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
