"""The benchmark of merge_: rivals leave the same tensors, floors count what must be moved."""

from __future__ import annotations

import json

import pytest
import torch

from edufast.bench import merge
from edufast.bench.benchmark import run
from edufast.bench.merge import DECAY, MANY_SMALL, Case
from edufast.bench.timing import measure
from edufast.ops import MergePlan, merge_

OPERATIONS = [(1, 0.0), (1, DECAY), (2, 0.0), (4, 0.0)]


@pytest.mark.parametrize(("lists", "keep"), OPERATIONS)
def test_rivals_leave_the_same_targets(lists, keep):
    torch.manual_seed(0)
    case = Case("two", lists, keep, warm=True)
    sizes = [torch.Size([3, 4]), torch.Size([5])]
    start = [torch.rand(size) for size in sizes]
    sources = [[torch.rand(size) for size in sizes] for _ in range(lists)]
    rivals = {
        "MergePlan": lambda targets: MergePlan(targets, sources)(keep=keep),
        "foreach": lambda targets: merge.foreach(case, targets, sources),
        "loop": lambda targets: merge.loop(case, targets, sources),
    }
    expected = [tensor.clone() for tensor in start]
    merge_(expected, sources, keep=keep)
    for name, rival in rivals.items():
        found = [tensor.clone() for tensor in start]
        rival(found)
        for before, tensor, wanted in zip(start, found, expected, strict=True):
            assert not torch.equal(tensor, before)
            torch.testing.assert_close(tensor, wanted, msg=name)


def test_the_moving_average_of_timm_has_the_same_decay():
    pytest.importorskip("timm")
    sources = [torch.rand(3, 4), torch.rand(5)]
    average, module = merge.timm_ema(sources)
    expected = [tensor.clone() for tensor in sources]
    for parameter in module.parameters():
        parameter.data += 1
    average.update(module)
    merge_(expected, [[source.detach() for source in module.parameters()]], keep=DECAY)
    for found, wanted in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted)


def test_operations_have_names_and_bytes():
    found = [(Case("x", lists, keep, True).operation) for lists, keep in OPERATIONS]
    assert found == ["copy", "ema", "average of 2", "average of 4"]
    # Sources read, targets written; a moving average reads its target, too.
    moved = [merge.traffic(Case("x", lists, keep, True), 10) for lists, keep in OPERATIONS]
    assert moved == [80, 120, 120, 200]


def test_shapes_are_those_of_the_parameters_without_their_memory():
    assert merge.shapes(MANY_SMALL) == [torch.Size([64])] * 1000
    sizes = merge.shapes("resnet20")
    assert sum(size.numel() for size in sizes) > 270_000 and torch.Size([1000, 64]) in sizes


def test_floors_copy_as_many_bytes_or_say_by_what_to_multiply(monkeypatch):
    plans = []

    class Plan(MergePlan):
        def __init__(self, targets, sources):
            plans.append((targets, sources))
            super().__init__(targets, sources)

    monkeypatch.setattr(merge, "MergePlan", Plan)
    floors, scale = merge.copy_floors(4096, 2, "cpu")
    assert scale == 1 and floors["copy"](1).numel() == 512
    for floor in floors.values():
        ((target,), (source,)) = plans[1]
        target.zero_()
        source.fill_(3)
        floor(1)
        assert target.eq(3).all() and target.nbytes + source.nbytes == 4096
    monkeypatch.setattr(merge, "FLOOR_BYTES", 1024)
    floors, scale = merge.copy_floors(4096, 1, "cpu")
    assert scale == 4 and floors["copy"](0).numel() == 128


def test_only_lists_that_fit_into_a_cache_are_measured_warm():
    for quick in (True, False):
        cases = merge.grid(quick)
        assert len(set(cases)) == len(cases)
        assert {case.name for case in cases if case.warm} == {MANY_SMALL, "resnet20"}
        assert {(case.lists, case.keep) for case in cases} == set(OPERATIONS)


def test_results_are_shown_and_written(monkeypatch, tmp_path, capsys):
    cases = [Case(MANY_SMALL, 1, DECAY, True), Case(MANY_SMALL, 2, 0.0, False)]
    monkeypatch.setattr(merge, "grid", lambda quick: cases)
    monkeypatch.setattr(merge, "buffer_sets", lambda *_: 2)
    monkeypatch.setattr(merge, "measure", lambda *a, **k: measure(*a, **k | {"seconds": 0.001}))
    threads = torch.get_num_threads()
    run(merge.BENCHMARK, True, tmp_path, "cpu", 1)
    assert torch.get_num_threads() == threads
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merge.json", "merge.png"]
    results = json.loads((tmp_path / "merge.json").read_text())["results"]
    assert [(r["operation"], r["warm"]) for r in results] == [
        ("ema", True),
        ("average of 2", False),
    ]
    for result in results:
        assert (result["tensors"], result["elements"]) == (1000, 64000)
        foreach = result["results"]["foreach"]["median"]
        for found in result["results"].values():
            assert found["speedup_over_foreach"] == foreach / found["median"]
            assert found["copy_bandwidth"] == result["copy"] / found["median"]
            streaming = result["streaming_copy"] / found["median"]
            assert found["streaming_copy_bandwidth"] == streaming
    assert "of copies: bandwidth" in capsys.readouterr().out
    assert (tmp_path / "merge.png").read_bytes().startswith(b"\x89PNG")
