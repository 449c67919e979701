"""The benchmark of augment: rivals make the same batches, results are shown and written."""

from __future__ import annotations

import json

import torch

from edufast.bench import augment
from edufast.bench.augment import BATCH, Case
from edufast.bench.benchmark import run
from edufast.bench.timing import measure


def test_all_candidates_make_the_same_batch():
    torch.manual_seed(0)
    candidates = augment.candidates(Case(8, "bf16"), 2, "cpu")
    assert list(candidates) == ["eager", "cpp"]
    batches = [candidate(1) for candidate in candidates.values()]
    assert batches[0].shape == (BATCH, 3, 8, 8) and torch.equal(*batches)
    assert not torch.equal(batches[0], candidates["eager"](0))


def test_bytes_are_those_of_the_images_and_of_the_batch():
    assert Case(2, "fp32").bytes == BATCH * 12 * 5 and Case(2, "bf16").bytes == BATCH * 12 * 3


def test_results_are_shown_and_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(augment, "grid", lambda quick: [Case(8, "fp32"), Case(16, "bf16")])
    monkeypatch.setattr(augment, "measure", lambda *a, **k: measure(*a, **k | {"seconds": 0.001}))
    run(augment.BENCHMARK, True, tmp_path, "cpu", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["augment.json", "augment.png"]
    written = json.loads((tmp_path / "augment.json").read_text())
    assert written["quick"] is True and written["machine"]["threads"] == 1
    assert [r["size"] for r in written["results"]] == [8, 16]
    for result in written["results"]:
        eager = result["results"]["eager"]["median"]
        for found in result["results"].values():
            assert found["speedup_over_eager"] == eager / found["median"]
            assert found["copy_bandwidth"] == result["copy"] / found["median"]
    assert "128 images of 16 pixels, bf16" in capsys.readouterr().out
    assert (tmp_path / "augment.png").read_bytes().startswith(b"\x89PNG")
