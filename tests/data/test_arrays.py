"""Arrays on disk: mapped where they can be, checked, and never unpickled."""

from __future__ import annotations

import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edufast.data import load_dataset
from edufast.data.arrays import arrays
from edufast.utils.errors import UserError
from tests.commands import edufast, one_line

NAMES = np.array(["cat", "dog", "gnu"])
COUNTS = {"train": 12, "test": 6}


def content(split: str, side: int = 16) -> dict[str, np.ndarray]:
    count = COUNTS[split]
    generator = np.random.default_rng(count)
    images = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return {"images": images, "labels": np.arange(count) % 3, "class_names": NAMES}


def write(folder, kind: str = "npz", side: int = 16, split: str = "", **changes):
    """A set of ``kind``, with some arrays of one ``split`` changed."""
    folder.mkdir(exist_ok=True)
    for name in COUNTS:
        parts = content(name, side) | (changes if name == split else {})
        if kind == "npy":
            np.save(folder / "class_names.npy", parts.pop("class_names"))
            for key, array in parts.items():
                np.save(folder / f"{name}_{key}.npy", array)
        else:
            save = np.savez if kind == "npz" else np.savez_compressed
            save(folder / f"{name}.npz", **{k: v for k, v in parts.items() if v is not None})
    return folder


def told(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(f"arrays:{folder}")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["npz", "compressed", "npy"])
def test_what_was_written_is_read(kind, tmp_path):
    data = load_dataset(f"arrays:{write(tmp_path / 'set', kind)}")
    assert data.classes == ("cat", "dog", "gnu") and data.image_size == 16
    for split, samples in {"train": data.train, "test": data.val}.items():
        assert np.array_equal(samples.images, content(split)["images"])
        assert samples.labels.tolist() == [number % 3 for number in range(COUNTS[split])]


@pytest.mark.parametrize(("kind", "mapped"), [("npz", True), ("npy", True), ("compressed", False)])
def test_images_are_mapped_where_they_are_stored_as_they_are(kind, mapped, tmp_path):
    """A byte that changes in the file changes in the array."""
    folder = write(tmp_path / "set", kind)
    images = load_dataset(f"arrays:{folder}").train.images
    path = folder / ("train_images.npy" if kind == "npy" else "train.npz")
    before = content("train")["images"]
    if mapped:
        start = path.read_bytes().index(before.tobytes())
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes([before.flat[0] ^ 255]))
    assert (images.flat[0] != before.flat[0]) == mapped
    assert np.array_equal(images.flat[1:], before.flat[1:])
    assert images.flags.writeable != mapped, "nothing writes into a user's file"


def test_a_training_reads_them_from_the_command_line(tmp_path):
    folder = write(tmp_path / "set")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"""
name: r
data: {{source: "arrays:{folder}", holdout: 0.25}}
student: {{model: resnet8}}
curriculum: {{grades: [{{epochs: 1, classes: 0-2}}]}}
training: {{batch_size: 4, augment: {{pad: 1}}}}
"""
    )
    edufast("train", recipe, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "student.safetensors").is_file()
    wrong = edufast("train", recipe, "--set", f"data.source=arrays:{tmp_path}/none", code=2)
    assert f"{tmp_path}/none' does not exist; expected a path" in one_line(wrong)


def test_other_integers_and_sizes_will_do(tmp_path):
    labels = content("train")["labels"].astype(">u2")
    folder = write(tmp_path / "set", side=20, split="train", labels=labels)
    data = load_dataset(f"arrays:{folder}", image_size=16)
    assert data.train.images.shape == (12, 16, 16, 3)
    assert data.train.labels.dtype == np.int64 and data.train.labels.max() == 2


IMAGES, LABELS = content("train")["images"], content("train")["labels"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES / 255}, "images is float64 (12, 16, 16, 3); expected uint8"),
        ({"images": IMAGES * np.nan}, "images is float64"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "images is uint8 (12, 3, 16, 16); expected"),
        ({"images": IMAGES[..., 0]}, "images is uint8 (12, 16, 16); expected uint8 (N, H, W, 3)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "images is uint8 (0, 16, 16, 3)"),
        ({"images": IMAGES[:9]}, "labels is int64 (12,); expected integers (9,)"),
        ({"images": np.asfortranarray(IMAGES)}, "images.npy: is in Fortran order; expected C"),
        ({"images": None}, "train.npz: has no array 'images'; expected images, labels and class"),
        ({"labels": LABELS * np.nan}, "labels is float64 (12,); expected integers (12,)"),
        ({"labels": LABELS[:, None]}, "labels is int64 (12, 1); expected integers (12,)"),
        ({"labels": LABELS + 1}, "labels are from 1 to 3; expected 0 to 2, positions among 3"),
        ({"labels": LABELS - 1}, "labels are from -1 to 1; expected 0 to 2"),
        ({"labels": LABELS.astype(np.uint64) + 2**63}, "to 9223372036854775810; expected 0 to 2"),
        ({"labels": LABELS % 2}, "class 'gnu' has no training image"),
        ({"labels": LABELS.astype(object)}, "labels.npy: holds pickled objects, which may run"),
        ({"class_names": np.array([b"a", b"b", b"c"])}, "class_names is |S1 (3,); expected strin"),
        ({"class_names": NAMES[:2]}, "labels are from 0 to 2; expected 0 to 1"),
        ({"class_names": NAMES[[0, 1, 0]]}, "class_names has 'cat' twice"),
        ({"class_names": np.array(["a", "", "c"])}, "class_names has '' as a name"),
        ({"class_names": np.array(["a", "b\n", "c"])}, r"class_names has 'b\n'; expected printab"),
        ({"class_names": NAMES[::-1]}, "train and test name different classes"),
    ],
)
@pytest.mark.parametrize("kind", ["npz", "compressed"])
def test_what_is_no_data_set_is_told(kind, changes, message, tmp_path):
    assert message in told(write(tmp_path / "set", kind, split="train", **changes))


def test_what_is_missing_is_told(tmp_path):
    folder = write(tmp_path / "set")
    (folder / "test.npz").unlink()
    assert "has neither test.npz nor test_images.npy; expected one of them" in told(folder)
    folder = write(tmp_path / "other", "npy")
    (folder / "class_names.npy").unlink()
    assert "class_names.npy: missing; expected it beside train_images.npy" in told(folder)


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "class_names.npy"])
def test_a_file_of_another_length_is_told(name, tmp_path):
    folder = write(tmp_path / "set", "npy")
    whole = (folder / name).read_bytes()
    for damaged in (whole[:-1], whole + b"\0"):
        (folder / name).write_bytes(damaged)
        assert f"{name}: has {len(damaged) - 128} bytes of data; expected " in told(folder)
    (folder / name).write_bytes(b"")
    assert f"{name}: is damaged or no array" in told(folder)


@pytest.mark.parametrize("kind", ["npz", "compressed"])
def test_a_bit_that_is_not_as_it_was_written_is_told(kind, tmp_path):
    """Also in what is mapped."""
    folder = write(tmp_path / "set", kind)
    with zipfile.ZipFile(folder / "train.npz") as archive:
        middle = archive.getinfo("images.npy").compress_size // 2
    damaged = bytearray((folder / "train.npz").read_bytes())
    damaged[middle] ^= 1
    (folder / "train.npz").write_bytes(damaged)
    assert "train.npz: images.npy: is damaged" in told(folder) or "cannot be read" in told(folder)


def test_nothing_is_unpickled(tmp_path):
    """In the place of an array, and in an array of objects."""
    folder = write(tmp_path / "set", "npy")

    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (folder / "train_labels.npy").write_bytes(pickle.dumps(Bomb()))
    assert "train_labels.npy: is damaged or no array" in told(folder)
    np.save(folder / "train_labels.npy", np.array([Bomb()] * 12), allow_pickle=True)
    assert "train_labels.npy: holds pickled objects" in told(folder)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for kind in ("npz", "compressed", "npy"):
        write(root / kind, kind, side=8)
    return {path: path.read_bytes() for path in sorted(root.glob("*/*"))}


def test_the_names_of_other_arrays_are_told_in_the_same_line(tmp_path):
    np.savez(tmp_path / "train.npz", **{"im\nages": np.zeros(3)})
    with pytest.raises(UserError, match=r"has no array 'images'; expected .* found im ages$"):
        arrays(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_damaged_is_told_in_one_line_or_read(sets, data):
    path = data.draw(st.sampled_from(list(sets)))
    damaged = bytearray(sets[path])
    for _ in range(data.draw(st.integers(1, 3))):
        near = st.integers(0, min(len(damaged), 300) - 1)  # headers are at both ends
        place = data.draw(near) * data.draw(st.sampled_from([1, -1]))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(damaged))))
    path.write_bytes(bytes(damaged[:cut]))
    try:
        arrays(path.parent)
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(sets[path])


def test_arrays_that_are_not_resized_need_no_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert len(load_dataset(f"arrays:{write(tmp_path / 'set')}").train) == COUNTS["train"]
    with pytest.raises(UserError, match=re.escape("Pillow: pip install 'edufast[train]'")):
        load_dataset(f"arrays:{tmp_path / 'set'}", image_size=32)
