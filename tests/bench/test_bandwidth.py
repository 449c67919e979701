"""Kernels beside a copy: the GPU's code path, on tiny problems of the CPU."""

from __future__ import annotations

import pytest

from edufast.bench.bandwidth import DRY, FILE, GPU, run, table
from edufast.bench.lines import Lines


def test_every_operator_is_measured_beside_a_copy_and_once(tmp_path):
    lines = Lines(tmp_path / FILE)
    run(lines, DRY)
    shares = {r["name"]: r["of_copy"] for r in lines if "of_copy" in r}
    assert all(r["copy_us"] / r["us"] == pytest.approx(shares[r["name"]])
               for r in lines if r["name"] in shares)  # fmt: skip
    operators = {name.split()[0] for name in shares}
    assert operators == {"kd", "dist", "min_norm", "merge", "foreach"}
    # kd: by itself and through autograd; others: two sizes; merge: three operations, two types.
    problems = len(DRY.latency) + len(DRY.classes) * len(DRY.teachers)
    assert len(shares) == 2 * problems + 2 * 2 + 2 * 3 * 2
    assert [r["name"] for r in lines if "host_us" in r] == ["kd 4x10 K=3 bf16 cpp host"]
    assert len(table(lines).splitlines()) == len(shares)
    before = (tmp_path / FILE).read_text()
    run(Lines(tmp_path / FILE), DRY)
    assert (tmp_path / FILE).read_text() == before


def test_buffers_of_a_gpu_are_larger_than_its_cache():
    assert GPU.total_bytes >= 8 * GPU.set_bytes >= 1 << 29
