"""What benchmarks of operators on logits share: times beside PyTorch's and the floor."""

from __future__ import annotations

import torch

from edufast.bench import logits
from edufast.bench.logits import Contest, Setting
from edufast.bench.timing import Timing


def test_times_are_compared_with_pytorch_and_the_larger_floor(monkeypatch):
    medians = {"eager": 8.0, "compile": 4.0, "ours": 2.0, "copy": 0.25}

    def measure(candidates, *, device, sets, seconds):
        assert (list(candidates), device, sets, seconds) == (list(medians), "cpu", 3, 0.5)
        return {name: Timing(median, median, median) for name, median in medians.items()}

    monkeypatch.setattr(logits, "measure", measure)
    released = []
    contest = Contest(
        {name: lambda i: torch.empty(1 << 20) for name in ("eager", "compile", "ours")},
        bytes=64, exponentials=100, sets=3, release=lambda: released.append(True),
    )  # fmt: skip
    found = contest.measured(Setting("cpu", seconds=0.5, exponential=0.01))
    assert (found["bytes"], found["copy"], found["exponentials"]) == (64, 0.25, 1.0)
    assert found["floor"] == 1.0, "exponentials take longer than the copy"
    ours = found["results"]["ours"]
    assert list(found["results"]) == ["eager", "compile", "ours"] and len(released) == 3
    assert (ours["speedup_over_eager"], ours["speedup_over_compile"]) == (4, 2)
    assert (ours["speedup_over_best"], ours["times_floor"]) == (2, 2)
    cheap = contest.measured(Setting("cpu", seconds=0.5, exponential=0.001))
    assert cheap["floor"] == cheap["copy"], "the copy takes longer than exponentials"


def test_a_copy_reads_half_of_the_bytes_and_writes_half():
    copied = logits.copying(4096, 2, "cpu")(1)
    assert copied.nbytes == 2048


def test_a_setting_measures_an_exponential(monkeypatch):
    monkeypatch.setattr(
        logits,
        "measure",
        lambda *_, **__: {n: Timing(t, t, t) for n, t in (("a", 2.0), ("b", 1.0))},
    )
    assert Setting.of(True, "cpu") == Setting("cpu", 0.4, 1.0 / 512_000)
    assert Setting.of(False, "cpu").seconds == 1.0
