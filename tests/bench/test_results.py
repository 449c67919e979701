"""Results on disk: what is written is read, damage is told, machines are told apart."""

from __future__ import annotations

import json

import pytest

from edufast.bench.results import (
    OURS,
    VARIES,
    Measurement,
    as_text,
    differences,
    duration,
    measurements,
    read,
    write,
)
from edufast.bench.timing import machine
from edufast.utils.errors import UserError

QUARTILES = {"size": 1, "results": {"eager": {"median": 2.0, "low": 1.0, "high": 4.0}}}
ROUNDS = {
    "size": 2,
    "results": {"(a)": {"images_per_second": 4.0, "speeds": [2.0, 4.0, 8.0], "startup": 9.0}},
}


def size(result):
    return f"size {result['size']}"


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "a.json"
    write(path, machine("cpu"), True, [QUARTILES, ROUNDS])
    content = read(path, size)
    assert content["quick"] is True and content["machine"]["device"] == "cpu"
    assert measurements(content["results"], size) == [
        Measurement("size 1", "eager", 2.0, 1.0, 4.0),
        Measurement("size 2", "(a)", 0.25, 0.125, 0.5),
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"results": []}', '{"machine": {"device": "cpu"}}',
     '{"machine": {"device": "cpu"}, "results": [{}]}',
     '{"machine": {"device": "cpu"}, "results": [{"results": {}}]}',
     '{"machine": {"device": "cpu"}, "results": 3}',
     '{"machine": {"device": "cpu"}, "results": [{"results": {"of": "another benchmark"}}]}',
     "[" * 100_000,
     "\ud800"],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"a\.json is not a result of edufast bench$"):
        read(path, size)
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        read(tmp_path / "none.json", size)


def test_machines_differ_by_what_numbers_depend_on():
    here = machine("cpu")
    assert differences(here, {**here, "load": 99.0}) == []
    assert differences(here, {**here, "cores": -1}) == [f"cores {here['cores']!r} and -1"]
    assert differences(here, {**here, "gpu": "x"}) == ["gpu None and 'x'"]
    newer = {**here, "commit": "x", "edufast": "9"}
    assert len(differences(here, newer)) == 2 and not differences(here, newer, VARIES | OURS)


def test_the_committed_results_can_be_read(pytestconfig):
    files = list((pytestconfig.rootpath / "benchmarks/cpu").glob("*.json"))
    for name in ("kd_loss", "merge", "train"):
        (path,) = (file for file in files if file.stem == name)
        found = measurements(read(path, json.dumps)["results"], json.dumps)
        assert all(m.low <= m.median <= m.high for m in found) and len(found) > 20


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.0, "2 s"), (0.0123456, "12.3 ms"), (4.5e-6, "4.5 µs"), (0, "0 µs")]
)
def test_seconds_have_a_unit_that_reads_well(seconds, text):
    assert as_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0314, "31 ms"),
        (1.0, "1.0 s"),
        (99.94, "99.9 s"),
        (100, "2 min"),
        (5940, "99 min"),
        (7200, "2.0 h"),
    ],
)
def test_durations_have_the_unit_that_reads_best(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("place", ["median", "low", "high"])
@pytest.mark.parametrize("value", [None, "2.0", [2.0], -1.0, 0, float("nan"), float("inf"), ...])
def test_a_damaged_time_is_told(place, value, tmp_path):
    numbers = {"median": 2.0, "low": 1.0, "high": 4.0, place: value}
    if value is ...:
        del numbers[place]
    write(tmp_path / "a.json", machine("cpu"), True, [{"size": 1, "results": {"eager": numbers}}])
    with pytest.raises(UserError, match=r"a\.json is not a result of edufast bench$"):
        read(tmp_path / "a.json", size)


@pytest.mark.parametrize(
    "numbers",
    [3, [], {"images_per_second": 0.0, "speeds": [1.0]}, {"images_per_second": 1.0, "speeds": []},
     {"images_per_second": 1.0}, {"images_per_second": 1.0, "speeds": [0.0]}],
)  # fmt: skip
def test_so_is_a_damaged_speed(numbers, tmp_path):
    write(tmp_path / "a.json", machine("cpu"), True, [{"size": 1, "results": {"(a)": numbers}}])
    with pytest.raises(UserError, match=r"a\.json is not a result of edufast bench$"):
        read(tmp_path / "a.json", size)
