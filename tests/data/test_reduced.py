"""Small copies of large pictures: made once, of what can be read and is large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edufast.data import Samples, load_dataset
from edufast.data import reduced as module
from edufast.data.reduced import reduced
from edufast.utils.errors import UserError
from tests.data.folders import make_pictures


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDUFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, width: int, height: int, **options: object) -> Path:
    """The left half dark, the right half light."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 200
    Image.fromarray(pixels).save(path, **options)
    return path


def of(*paths: Path) -> Samples:
    return Samples(paths, np.arange(len(paths), dtype=np.int64))


def test_large_files_become_copies_and_others_stay(tmp_path):
    large, small = picture(tmp_path / "a.png", 400, 200), picture(tmp_path / "b.png", 90, 64)
    bad = tmp_path / "c.jpg"
    bad.write_bytes(b"no picture")
    cut = tmp_path / "d.png"
    cut.write_bytes(large.read_bytes()[:-200])
    samples = of(large, small, bad, cut)
    copy, *rest = reduced(samples, 64).images
    assert rest == [small, bad, cut], "what is small, and what cannot be read"
    with Image.open(copy) as image:
        assert image.size == (128, 64)
        pixels = np.asarray(image)
    assert pixels[:, :60].max() < 20 and abs(pixels[:, 70:].astype(int) - 200).max() < 10
    assert (reduced(samples, 64).labels == samples.labels).all()


def test_a_picture_too_long_for_a_jpeg_stays(tmp_path):
    long, high = picture(tmp_path / "a.png", 90_000, 100), picture(tmp_path / "b.png", 100, 90_000)
    assert reduced(of(long, high), 80).images == (long, high)


def test_copies_are_made_once_and_again_when_the_file_changes(tmp_path, monkeypatch):
    path, read = picture(tmp_path / "a.png", 400, 200), []
    whole = module.read_picture
    monkeypatch.setattr(module, "read_picture", lambda p: (read.append(p), whole(p))[1])
    (first,) = reduced(of(path), 64).images
    assert reduced(of(path), 64).images == (first,) and read == [path]
    (other,) = reduced(of(path), 32).images
    picture(path, 500, 200)
    (changed,) = reduced(of(path), 64).images
    assert len({first, other, changed}) == 3 and len(read) == 3


def test_copies_stand_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = picture(tmp_path / "a.jpg", 400, 200, exif=exif)
    (copy,) = reduced(of(path), 64).images
    with Image.open(copy) as image:
        assert image.size == (64, 128) and not image.getexif()


def test_arrays_stay_as_they_are():
    samples = Samples(np.zeros((2, 99, 99, 3), np.uint8), np.zeros(2, np.int64))
    assert reduced(samples, 8) is samples


def test_a_data_set_reads_copies(tmp_path, cache):
    for name in ("cat", "dog"):
        make_pictures(tmp_path / "pictures" / name, 5)
        picture(tmp_path / "pictures" / name / "large.png", 400, 300)
    data = load_dataset(str(tmp_path / "pictures"), image_size=8, reduce_to=64)
    copies = [p for s in (data.train, data.val) for p in s.images if cache in p.parents]
    assert len(copies) == 2
    with pytest.raises(UserError, match="reduce_to: expected at least image_size, 224, got 64"):
        load_dataset(str(tmp_path / "pictures"), reduce_to=64)
