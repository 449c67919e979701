"""Training steps on resident images: the GPU's code path, with tiny networks on the CPU."""

from __future__ import annotations

import torch

from edufast.bench.lines import Lines
from edufast.bench.resident_steps import DRY, FILE, Steps, run, table


def test_steps_are_measured_once(tmp_path):
    run(Lines(tmp_path / FILE), DRY)
    lines = Lines(tmp_path / FILE)
    assert [r["name"] for r in lines] == ["step B=8 eager", "step B=8 replayed"]
    assert all(r["images/s"] > 0 for r in lines)
    assert table(lines).splitlines()[0].endswith(" 1.00 x eager,     0 kernels, busy 0%")
    run(lines, DRY)
    assert len([*Lines(tmp_path / FILE)]) == 2


def test_the_student_learns_what_is_measured():
    steps = Steps(DRY, 8, compile=False)
    batch = [steps(0).item() for _ in range(8)]
    assert batch[-1] < batch[0]
    assert not torch.equal(steps._batches[0], steps._batches[1])
