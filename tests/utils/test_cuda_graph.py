"""Functions that are replayed: by an emulated capture on the CPU, by a real one on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from edufast.utils import cuda_graph
from edufast.utils.cuda_graph import Replays
from tests.replays import emulated

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Pair(NamedTuple):
    first: Tensor
    rest: list[Tensor]
    rows: slice


def combined(x: Tensor, pair: Pair | None, factor: float) -> Tensor:
    return factor * x.sum() + (0 if pair is None else pair.first[pair.rows].sum() * pair.rest[0])


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=GPU, id="gpu")])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        monkeypatch.setattr(cuda_graph, "DEVICES", ("cpu",))
        monkeypatch.setattr(cuda_graph, "capture", emulated)
    return str(request.param)


@pytest.fixture
def captures(device: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has an entry for each capture."""
    made: list[str] = []
    real = cuda_graph.capture

    def counted(*arguments):
        made.append(device)
        return real(*arguments)

    monkeypatch.setattr(cuda_graph, "capture", counted)
    return made


def made(device: str | None = "cuda", what: str = "it") -> Replays:
    return Replays(what, None if device is None else torch.device(device))


@pytest.mark.parametrize("device", ["cpu", None])
def test_elsewhere_every_call_is_made(device):
    calls: list[int] = []
    replays = made(device)
    for i in range(5):
        replays(lambda x: calls.append(x) or torch.ones(()), i)
    assert calls == [0, 1, 2, 3, 4]


def test_every_call_computes_with_its_own_arguments(device, captures):
    replays = made(device)
    found, expected = [], []
    for i in range(6):
        x = torch.full((3,), float(i), device=device)
        pair = Pair(torch.arange(4.0, device=device) + i, [x[0] + 1], slice(1, 3))
        found.append(replays(combined, x, pair, 2.0))
        expected.append(combined(x, pair, 2.0))
    assert found == expected and len(captures) == 1


def test_other_shapes_numbers_or_rows_are_never_replayed(device, captures):
    replays = made(device)
    x, y = torch.ones(3, device=device), torch.ones(4, device=device)
    pair = Pair(torch.arange(4.0, device=device), [y[0]], slice(0, 2))
    for _ in range(4):
        for given in (x, None, 1.0), (y, None, 1.0), (x, pair, 1.0), (x, None, 3.0):
            assert replays(combined, *given) == combined(*given)
        assert replays(combined, x, pair._replace(rows=slice(1, 4)), 1.0) == 3 + 6
    assert not captures
    for _ in range(4):
        assert replays(combined, y, None, 3.0) == 12
    assert len(captures) == 1


def test_what_it_returned_before_stays(device, captures):
    replays = made(device)
    found = [replays(lambda x: x + 1, torch.full((2,), float(i), device=device)) for i in range(5)]
    assert [x[0].item() for x in found] == [1, 2, 3, 4, 5] and len(captures) == 1


def test_after_forget_it_is_captured_anew(device, captures):
    weight = [torch.ones(2, device=device)]
    replays = made(device)

    def weighted(x: Tensor) -> Tensor:
        return x * weight[0]

    x = torch.ones(2, device=device)
    for _ in range(4):
        replays(weighted, x)
    weight[0] = torch.full((2,), 5.0, device=device)
    replays.forget()
    assert [replays(weighted, x)[0].item() for _ in range(4)] == [5, 5, 5, 5] and len(captures) == 2


@GPU
def test_gpu_what_waits_for_the_device_is_called_as_before_and_one_warning_says_so():
    replays = made(what="the step of mine")

    def waits(x: Tensor) -> Tensor:
        return x * x.sum().item()

    x = torch.ones(2, device="cuda")
    assert [replays(waits, x)[0].item() for _ in range(2)] == [2, 2]
    with pytest.warns(UserWarning, match="^the step of mine is launched kernel by kernel, not as"):
        assert replays(waits, x)[0] == 2
    assert replays(waits, x)[0] == 2


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_gpu_a_function_on_another_gpu_than_the_current_one_is_captured_there():
    replays = Replays("it", torch.device("cuda:1"))
    found = [
        replays(lambda x: x + 1, torch.full((2,), float(i), device="cuda:1")) for i in range(5)
    ]
    assert [x[0].item() for x in found] == [1, 2, 3, 4, 5]


def test_what_cannot_be_captured_is_called_as_before_and_one_warning_says_so(monkeypatch):
    def refuse(*arguments):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(cuda_graph, "capture", refuse)
    replays = made(what="the step of mine")
    x = torch.ones(3)
    assert [replays(combined, x, None, 1.0) for _ in range(2)] == [3, 3]
    with pytest.warns(UserWarning, match="graph: operation not permitted when stream is captur"):
        assert replays(combined, x, None, 1.0) == 3
    assert replays(combined, x, None, 1.0) == 3
