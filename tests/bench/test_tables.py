"""Tables of measurements on a terminal of 80 columns: those of the published numbers."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from edufast.bench import dist_loss, kd_loss, merge, min_norm
from edufast.bench.tables import numbers_table
from edufast.bench.train import show
from edufast.bench.train.costs import training_costs
from edufast.bench.train.setting import PAIRS
from tests.commands import words

MEASURED = Path(__file__).parents[2] / "benchmarks" / "cpu"


def measured(name):
    return json.loads((MEASURED / f"{name}.json").read_text())["results"]


TABLES = {
    **{
        b.name: lambda b=b: b.shown(measured(b.name))[0]
        for b in (kd_loss.BENCHMARK, dist_loss.BENCHMARK, min_norm.BENCHMARK)
    },
    "merge": lambda: merge.table(measured("merge")),
    **{
        f"train {i}": lambda i=i: show.table(measured("train")[i])
        for i in range(len(measured("train")))
    },
    **{
        f"costs of {name}": lambda name=name, pair=pair: show.cost_table(name, training_costs(pair))
        for name, pair in PAIRS.items()
    },
}


def printed(table, columns):
    file = io.StringIO()
    Console(file=file, width=columns).print(table)
    return file.getvalue()


@pytest.mark.parametrize("made", TABLES.values(), ids=TABLES)
def test_every_word_is_whole_at_eighty_columns(made):
    table = made()
    narrow = printed(table, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert words(narrow) == words(printed(table, 300)) and "…" not in narrow


def test_words_wrap_and_numbers_do_not():
    table = numbers_table("t", "implementation", "µs")
    table.add_row("a name that has several words", "1000 - 2000")
    lines = printed(table, 30).splitlines()
    assert any(line.endswith("1000 - 2000") for line in lines)
    assert words(printed(table, 30)) == words(printed(table, 300))
