"""dist_loss on CUDA: on a GPU if there is one, and emulated on the CPU everywhere.

The emulation has the device code behind the operator's checks, for a device of two multiprocessors.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from edufast.ops import dist_loss
from tests.ops import test_dist_loss
from tests.ops.cuda_emulation.driver import emulated
from tests.ops.devices import cuda_backends, on_gpu
from tests.ops.dist_cases import DTYPES, Case, assert_accurate, evaluate, inputs

HERE = pytest.mark.parametrize("backend", cuda_backends("dist_loss"))
GPU = on_gpu("dist_loss")


@HERE
class TestConventions(test_dist_loss.Conventions):
    pass


# Around the 256 columns of a vector of every lane, the 1,024 that a warp holds, the eight rows of a
# block and several blocks; with and without 16-byte accesses.
@HERE
@pytest.mark.parametrize("classes", [1, 10, 100, 104, 256, 257, 1000, 1001, 1024, 1032, 2051])
@pytest.mark.parametrize("rows", [1, 8, 35])
def test_shapes(backend: str, rows: int, classes: int) -> None:
    assert_accurate(Case(rows=rows, classes=classes), backend)


@HERE
@pytest.mark.parametrize("classes", [40, 1032])
@pytest.mark.parametrize("teacher_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(backend: str, dtype: torch.dtype, teacher_dtype: torch.dtype, classes: int) -> None:
    case = Case(dtype=dtype, teacher_dtype=teacher_dtype, rows=20, classes=classes)
    assert_accurate(case, backend)


@HERE
@pytest.mark.parametrize("scale", [0.5, 10.0])
@pytest.mark.parametrize("numbers", [(0.5, 0.0, 1.0), (3.0, 2.5, 0.0), (10.0, 0.5, 2.0)])
def test_numbers(backend: str, numbers: tuple[float, float, float], scale: float) -> None:
    temperature, beta, gamma = numbers
    case = Case(rows=40, temperature=temperature, beta=beta, gamma=gamma, scale=scale)
    for classes in (23, 1100):
        assert_accurate(Case(**{**vars(case), "classes": classes}), backend)


@HERE
def test_columns_that_hardly_vary(backend: str) -> None:
    """Their moments are sums of small differences, over many rows and several blocks."""
    z, t = inputs(Case(rows=600, classes=16, scale=1e-2))
    z, t = z + torch.arange(16) / 4, t - torch.arange(16) / 4
    loss, grad = evaluate(z, t, backend, Case())
    expected, expected_grad = evaluate(z.double(), t.double(), "reference", Case())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=0, atol=1e-3 * grad.abs().max())


@HERE
@pytest.mark.parametrize("classes", [7, 300])
def test_gradcheck(backend: str, classes: int) -> None:
    z, t = inputs(Case(rows=5, classes=classes, dtype=torch.float64, scale=1.0))
    case = Case(temperature=2.0, beta=1.5, gamma=0.5)
    loss, grad = evaluate(z, t, backend, case)
    expected, expected_grad = evaluate(z, t, "reference", case)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("classes", [23, 1100])
def test_the_bits_do_not_depend_on_the_order_of_blocks_and_threads(classes: int) -> None:
    case = Case(rows=50, classes=classes)
    expected = evaluate(*inputs(case), "emulated", case)
    for order in (1, 2):
        with emulated("dist_loss", order=order):
            ours = evaluate(*inputs(case), "emulated", case)
        assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])


@pytest.mark.parametrize("classes", [23, 1100])
def test_numbers_in_the_memory_of_the_device(classes: int) -> None:
    case = Case(rows=9, classes=classes, temperature=1.5, beta=0.5, gamma=2.0)
    expected = evaluate(*inputs(case), "emulated", case)
    with emulated("dist_loss", numbers=1):
        ours = evaluate(*inputs(case), "emulated", case)
    assert torch.equal(ours[0], expected[0]) and torch.equal(ours[1], expected[1])
    with emulated("dist_loss", numbers=2):
        assert evaluate(*inputs(case), "emulated", case)[0].isnan()


# --- on a GPU -------------------------------------------------------------------------------------


@GPU
@pytest.mark.parametrize("classes", [10, 100, 1000, 1001, 4096, 21841, 131072])
def test_gpu_class_counts(classes: int) -> None:
    for rows in (3, 300):
        if rows * classes <= 1 << 23:
            for dtype in (torch.float32, torch.bfloat16):
                assert_accurate(Case(rows=rows, classes=classes, dtype=dtype), "cuda", "cuda")


@GPU
def test_gpu_many_rows() -> None:
    assert_accurate(Case(rows=50000, classes=10), "cuda", "cuda")
    assert_accurate(Case(rows=9000, classes=1000, dtype=torch.bfloat16), "cuda", "cuda")


@GPU
@pytest.mark.parametrize("classes", [100, 1000, 131072])
def test_gpu_deterministic_on_any_stream(classes: int) -> None:
    case = Case(rows=64, classes=classes, dtype=torch.bfloat16)
    pair = inputs(case, "cuda")
    expected = evaluate(*pair, "cuda", case)
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    outcomes = []
    for i in range(20):  # several in flight at once
        with torch.cuda.stream(streams[i % 4]):
            outcomes.append(evaluate(*pair, "cuda", case))
    torch.cuda.synchronize()
    for loss, grad in outcomes:
        assert torch.equal(loss, expected[0]) and torch.equal(grad, expected[1])


@GPU
@pytest.mark.parametrize("classes", [1000, 4096])
def test_gpu_graph(classes: int) -> None:
    """Captured once, replayed on new numbers."""
    z, t = inputs(Case(rows=300, classes=classes), "cuda")
    z.requires_grad_()

    def step() -> Tensor:
        z.grad = None
        loss = dist_loss(z, t, backend="cuda")
        loss.backward()
        return loss

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for seed in (1, 2, 3):
        other = inputs(Case(rows=300, classes=classes, seed=seed), "cuda")
        with torch.no_grad():
            z.copy_(other[0])
            t.copy_(other[1])
        graph.replay()
        expected = evaluate(*other, "cuda", Case())
        assert torch.equal(loss, expected[0]) and torch.equal(z.grad, expected[1])


@GPU
@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
def test_gpu_never_waits(device: str | None) -> None:
    """Nor for numbers in tensors, of the CPU or of the device."""
    z, t = inputs(Case(rows=300, classes=1000), "cuda")
    beta = torch.tensor(0.5, device=device) if device else 0.5
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        dist_loss(z.requires_grad_(), t, beta=beta).backward()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@GPU
def test_gpu_numbers_in_tensors() -> None:
    z, t = inputs(Case(rows=30), "cuda")
    expected = dist_loss(z, t, temperature=1.5, beta=0.5, backend="cuda")
    for device in ("cpu", "cuda"):
        temperature = torch.tensor(1.5, device=device)
        assert torch.equal(dist_loss(z, t, temperature=temperature, beta=0.5), expected)
    wrong = torch.tensor(0.0, device="cuda")
    assert math.isnan(dist_loss(z, t, temperature=wrong, backend="cuda").item())


@GPU
def test_gpu_offsets_beyond_two_to_the_31_elements() -> None:
    classes = 1 << 20
    rows = (1 << 31) // classes + 2
    z = torch.zeros(1, classes, dtype=torch.bfloat16, device="cuda").repeat(rows, 1)
    z[:, 3] = 5.0  # a row's softmax is not flat, and all rows are alike ...
    z[-1, 3], z[-1, 7] = 0.0, 5.0  # ... but the last
    loss = dist_loss(z.requires_grad_(), z.detach().roll(1, 0), backend="cuda")
    loss.backward()
    assert loss.isfinite()
    assert z.grad[-1, 3] != 0 and z.grad[0, 7] != 0
