"""The list of benchmarks: what is a rival, and the committed results have its titles."""

from __future__ import annotations

from pathlib import Path

import pytest

from edufast.bench.benchmarks import BENCHMARKS
from edufast.bench.results import measurements, read

ALL = {benchmark.name: benchmark for benchmark in BENCHMARKS}


@pytest.mark.parametrize("name", ["kd_loss", "merge", "train"])
def test_contests_of_the_committed_results_have_their_own_titles_and_a_rival(name, pytestconfig):
    content = read(Path(pytestconfig.rootpath, f"benchmarks/cpu/{name}.json"), ALL[name].title)
    found = measurements(content["results"], ALL[name].title)
    contests = {m.contest for m in found}
    assert len(contests) == len(content["results"])
    for contest in contests:
        rivals = [ALL[name].is_rival(m.name) for m in found if m.contest == contest]
        assert any(rivals) and not all(rivals)


def test_exported_files_are_measured_on_one_thread_of_the_cpu():
    assert ALL["export"].machine("cuda", 8)["threads"] == 1
    assert ALL["export"].machine("cuda", 8)["device"] == "cpu"
    assert ALL["kd_loss"].machine("cpu", 8)["threads"] == 8
