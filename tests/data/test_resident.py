"""Images that stay on the device: the bits of DALI, and no DALI."""

from __future__ import annotations

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edufast.data import Augment, Samples, draw_views, numbered_views, resident
from edufast.data.augment import shift_numbers
from edufast.data.dali import DaliImages
from edufast.data.resident import ResidentImages, fits
from edufast.utils.errors import UserError
from tests.data.loading import SAMPLES, make, same, training


@pytest.mark.parametrize(
    "augment",
    [
        Augment(),
        Augment(pad=0),
        Augment(pad=0, flip=False),
        Augment(pad=3, flip=False),
        Augment(pad=40),
        Augment(pad=4, replay=5),
    ],
)
def test_batches_are_those_of_dali_bit_for_bit(augment, monkeypatch):
    pytest.importorskip("nvidia.dali")
    ours = training(augment=augment, groups=[[3, 0], [4], [1, 2]])
    monkeypatch.setattr("edufast.data.pipeline.fits", lambda images, device: False)
    theirs = training(augment=augment, groups=[[3, 0], [4], [1, 2]])
    assert isinstance(ours._maker, ResidentImages) and isinstance(theirs._maker, DaliImages)
    for epoch in range(3):
        assert same(ours.epoch(epoch), theirs.epoch(epoch))
    numbers = np.arange(50), np.arange(50) % augment.views
    assert same(ours.numbered(*numbers), theirs.numbered(*numbers))


def test_every_byte_is_normalised_as_by_dali(monkeypatch):
    pytest.importorskip("nvidia.dali")
    images = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    samples = Samples(images, np.zeros(1, np.int64))
    rng = np.random.default_rng(0)
    looks = [
        {"mean": rng.random(3).tolist(), "std": (0.02 + rng.random(3)).tolist()} for _ in range(8)
    ]
    ours = [next(make(samples, **look).epoch(0)) for look in looks]
    monkeypatch.setattr("edufast.data.pipeline.fits", lambda images, device: False)
    theirs = [next(make(samples, **look).epoch(0)) for look in looks]
    assert same(ours, theirs)


@pytest.mark.parametrize("augment", [Augment(), Augment(pad=1, flip=False), Augment(pad=0)])
def test_views_are_numbered_as_the_operator_counts_them(augment):
    numbers = np.arange(augment.views)
    views = numbered_views(augment, np.zeros_like(numbers), numbers)
    assert np.array_equal(shift_numbers(augment, views), numbers)


def test_replayed_views_have_the_number_of_their_shift_and_flip():
    replayed = draw_views(Augment(pad=2, replay=3), np.arange(60), seed=0, epoch=0, iteration=0)
    numbers = shift_numbers(Augment(pad=2, replay=3), replayed)
    again = numbered_views(Augment(pad=2), np.arange(60), numbers)
    assert np.array_equal(again.shift, replayed.shift) and np.array_equal(again.flip, replayed.flip)


def gpu(monkeypatch, memory):
    properties = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return torch.device("cuda", 0)


def test_a_quarter_of_a_gpus_memory_is_for_a_split(monkeypatch):
    size = SAMPLES.images.nbytes
    assert fits(SAMPLES.images, gpu(monkeypatch, 4 * size))
    assert not fits(SAMPLES.images, gpu(monkeypatch, 4 * size - 1))
    assert fits(SAMPLES.images, torch.device("cpu"))


def test_without_dali_what_does_not_fit_is_one_line(monkeypatch):
    device = gpu(monkeypatch, 4 * SAMPLES.images.nbytes - 1)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError) as error:
        make(device=device)
    assert str(error.value) == (
        "0 GB of images are more than a quarter of the memory of cuda:0; loading them batch by "
        "batch needs NVIDIA DALI: pip install 'edufast[train]'"
    )


def test_loaders_of_an_array_share_what_is_on_the_device():
    loaders = [make(), training()]
    held = [loader._maker._images for loader in loaders]
    assert held[0] is held[1]
    assert held[0].bytes.data_ptr() == SAMPLES.images.ctypes.data  # on the CPU, the array itself
    other = make(SAMPLES.subset(np.arange(50)))
    assert other._maker._images is not held[0]
    count = len(resident._SHARED)
    del other
    assert len(resident._SHARED) == count - 1


def test_arrays_are_read_where_they_are(tmp_path):
    """Mapped into memory and not to be written to; or with strides, which takes a copy."""
    np.save(tmp_path / "images.npy", SAMPLES.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    backwards = np.ascontiguousarray(SAMPLES.images[::-1])[::-1]
    expected = list(training().epoch(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (mapped, backwards):
            assert same(expected, training(samples=Samples(images, SAMPLES.labels)).epoch(0))


def test_without_dali_only_files_are_refused():
    program = """
import sys
sys.modules["nvidia.dali"] = None
from pathlib import Path
import numpy as np
import edufast.data as data
from edufast.utils.errors import UserError
options = {"batch_size": 1, "image_size": 8, "mean": (0, 0, 0), "std": (1, 1, 1)}
label = np.zeros(1, np.int64)
loader = data.Loader(data.Samples(np.ones((1, 8, 8, 3), np.uint8), label), **options)
print(tuple(next(loader.epoch(0)).images.shape))
try:
    data.Loader(data.Samples((Path("0.png"),), label), **options)
except UserError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.splitlines() == [
        "(1, 3, 8, 8)",
        "reading image files needs NVIDIA DALI: pip install 'edufast[train]'",
    ], result.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_batches_are_those_of_the_cpu_and_are_not_waited_for():
    ours = training(device="cuda").epoch(0)
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made = list(ours)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    there = [
        b._replace(images=b.images.cpu(), labels=b.labels.cpu(), index=b.index.cpu()) for b in made
    ]
    assert same(there, training().epoch(0))
