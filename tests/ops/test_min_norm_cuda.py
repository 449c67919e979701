"""min_norm_weights on CUDA: on a GPU if there is one, and emulated on the CPU everywhere.

The emulation has the device code behind the operators' checks, for a device of two multiprocessors.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edufast.ops import min_norm_weights
from tests.ops import test_min_norm
from tests.ops.cuda_emulation.driver import emulated
from tests.ops.devices import cuda_backends, on_gpu
from tests.ops.gram_cases import (
    Case,
    assert_accurate_gram,
    assert_optimal,
    gram_of,
    inputs,
    problem,
    solve,
    weights_of,
)

HERE = pytest.mark.parametrize("backend", cuda_backends("gradient_gram"))
GPU = on_gpu("gradient_gram")


@HERE
class TestQuadraticProgram(test_min_norm.QuadraticProgram):
    pass


@HERE
class TestMinNormWeights(test_min_norm.MinNormWeights):
    pass


# Around the 256 classes of a vector of every lane, and the 2,048 of a row that a warp takes as a
# whole; with and without 16-byte accesses.
@HERE
@pytest.mark.parametrize("classes", [3, 100, 256, 257, 1000, 2048, 2049, 4096])
@pytest.mark.parametrize("slices", test_min_norm.SLICES)
def test_gram_shapes(backend: str, slices: str, classes: int) -> None:
    case = Case(rows=5, classes=classes, slices=slices, temperature=(4.0, 1.0, 1.0))
    assert_accurate_gram(case, backend)


@HERE
@pytest.mark.parametrize("teachers", [1, 4, 5, 9, 32])
@pytest.mark.parametrize("classes", [32, 2056])
def test_gram_numbers_of_teachers(backend: str, classes: int, teachers: int) -> None:
    assert_accurate_gram(Case(rows=3, classes=classes, teachers=teachers), backend)


@HERE
@pytest.mark.parametrize("dtype", test_min_norm.DTYPES)
def test_gram_dtypes(backend: str, dtype: torch.dtype) -> None:
    for classes in (40, 41, 2056):
        case = Case(rows=40, classes=classes, dtype=dtype, teacher_dtypes=test_min_norm.DTYPES)
        assert_accurate_gram(case, backend)


@HERE
def test_gram_float64(backend: str) -> None:
    z, teachers, arguments = inputs(Case(slices="lists", dtype=torch.float64))
    p = problem(z, teachers, **arguments)
    expected = gram_of(p, "reference")
    torch.testing.assert_close(gram_of(p, backend), expected, rtol=1e-12, atol=1e-14)


@HERE
def test_gram_of_students_close_to_their_teachers(backend: str) -> None:
    """Differences of nearly equal probabilities, not of products of large ones."""
    z, _, _ = inputs(Case(rows=20, classes=100))
    teachers = [z + 1e-3 * torch.randn(z.shape, generator=torch.manual_seed(k)) for k in range(3)]
    p = problem(z, teachers, None, 1.0)
    exact = gram_of(problem(z.double(), [t.double() for t in teachers], None, 1.0), "reference")
    torch.testing.assert_close(gram_of(p, backend), exact, rtol=0, atol=1e-3 * exact.max().item())


@pytest.mark.parametrize(("classes", "slices"), [(40, "all"), (2056, "all"), (23, "lists")])
def test_the_bits_do_not_depend_on_the_order_of_blocks_and_threads(
    classes: int, slices: str
) -> None:
    z, teachers, arguments = inputs(Case(rows=40, classes=classes, slices=slices))
    p = problem(z, teachers, **arguments)
    expected = gram_of(p, "emulated")
    for order in (1, 2):
        with emulated("min_norm", order=order):
            assert torch.equal(gram_of(p, "emulated"), expected)


@pytest.mark.parametrize("classes", [23, 2056])
def test_numbers_in_the_memory_of_the_device(classes: int) -> None:
    z, teachers, _ = inputs(Case(rows=9, classes=classes))
    p = problem(z, teachers, None, (1.0, 2.0, 2.0))
    expected = gram_of(p, "emulated")
    weights = solve(expected, 0.5, "emulated")
    with emulated("min_norm", numbers=1):
        assert torch.equal(gram_of(p, "emulated"), expected)
        assert torch.equal(solve(expected, 0.5, "emulated"), weights)
    with emulated("min_norm", numbers=2):
        gram = gram_of(p, "emulated")
        assert gram.isnan().tolist() == [[True] * 3, [True, False, False], [True, False, False]]
        assert solve(gram, 1.0, "emulated").isnan().all()
        assert solve(expected, 0.5, "emulated").isnan().all()


# --- on a GPU -------------------------------------------------------------------------------------


@GPU
@pytest.mark.parametrize("classes", [10, 100, 1000, 4096, 21841, 131072])
def test_gpu_class_counts(classes: int) -> None:
    for rows in (3, 300):
        if rows * classes <= 1 << 22:
            for dtype in (torch.float32, torch.bfloat16):
                case = Case(rows=rows, classes=classes, teachers=4, dtype=dtype)
                assert_accurate_gram(case, "cuda")


@GPU
@pytest.mark.parametrize("classes", [100, 1000, 131072])
def test_gpu_deterministic_on_any_stream(classes: int) -> None:
    z, teachers, _ = inputs(Case(rows=64, classes=classes, teachers=4), "cuda")
    expected = min_norm_weights(z, teachers, cap=0.4)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    outcomes = []
    for i in range(20):  # several in flight at once
        with torch.cuda.stream(streams[i % 4]):
            outcomes.append(min_norm_weights(z, teachers, cap=0.4))
    torch.cuda.synchronize()
    assert all(torch.equal(ours, expected) for ours in outcomes)


@GPU
@pytest.mark.parametrize("slices", ["all", "lists"])
def test_gpu_graph(slices: str) -> None:
    """Captured once, replayed on new numbers."""
    z, teachers, arguments = inputs(Case(rows=300, classes=1000, slices=slices), "cuda")
    if slices == "lists":  # lists on the CPU would be copied during the capture
        arguments["slices"] = [torch.tensor(s, device="cuda") for s in arguments["slices"]]

    def step() -> Tensor:
        return min_norm_weights(z, teachers, backend="cuda", **arguments)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        weights = step()
    for seed in (1, 2, 3):
        z.copy_(inputs(Case(rows=300, classes=1000, slices=slices, seed=seed), "cuda")[0])
        graph.replay()
        assert torch.equal(weights, step())


@GPU
@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
def test_gpu_never_waits(device: str | None) -> None:
    """Nor for numbers in tensors, of the CPU or of the device."""
    z, teachers, _ = inputs(Case(rows=300, classes=1000), "cuda")
    temperature = torch.tensor(2.0, device=device) if device else 2.0
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        min_norm_weights(z, teachers, temperature=temperature)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@GPU
def test_gpu_bad_lists_and_numbers_are_nan() -> None:
    z, teachers, arguments = inputs(Case(slices="lists"), "cuda")
    columns = [torch.tensor(s, device="cuda") for s in arguments["slices"]]
    columns[0][0] = 2**40
    weights = min_norm_weights(z, teachers, slices=columns, backend="cuda")
    assert weights.isnan().all()
    same = [z, z + 1, z * 2]
    wrong = torch.tensor([1.0, 0.0, 1.0], device="cuda")
    assert min_norm_weights(z, same, temperature=wrong, backend="cuda").isnan().all()


@GPU
def test_gpu_weights_are_optimal() -> None:
    case = Case(rows=500, classes=1000, teachers=8, dtype=torch.bfloat16)
    z, teachers, arguments = inputs(case)
    p = problem(z.double(), [t.double() for t in teachers], **arguments)
    weights = weights_of(z, teachers, "cuda", 0.3)
    assert_optimal(gram_of(p, "reference"), weights, 0.3, 1e-5)
