"""Image files that cannot be decoded are named at once or left out; odd WebP files are read."""

from __future__ import annotations

import gc
import io
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from edufast.data import Augment, Loader, Samples, load_dataset
from edufast.data.image_files import (
    UnreadableImage,
    naming_unreadable,
    unreadable,
    with_even_chunks,
    with_known_orientation,
)
from edufast.data.pictures import read_picture
from edufast.student.student import Student
from edufast.teachers.cached_faculty import CachedFaculty
from edufast.teachers.teacher import Teacher
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.commands import edufast, one_line
from tests.data.folders import make_pictures, names
from tests.data.odd_pictures import seen_in_validation
from tests.tiny import TRAINING, tiny_model


def damage(path, how: int) -> None:
    """Make a picture unreadable, in one of four ways."""
    if how == 3:
        path.unlink()
        path.symlink_to("nowhere")
        return
    path.write_bytes([b"not an image", path.read_bytes()[:60], b""][how])


@pytest.fixture
def pictures(tmp_path):
    """Train 10 and val 6 of each of two classes; one or two of each are damaged by ``spoil``."""
    for part, count in (("train", 10), ("val", 6)):
        for name in ("cat", "dog"):
            make_pictures(tmp_path / part / name, count)
    return tmp_path


BAD = ["train/cat/003.png", "train/dog/000.png", "train/dog/009.png", "val/cat/005.png"]


def spoil(root) -> None:
    for how, name in enumerate(BAD):
        damage(root / name, how % 3)


def load(root, **options):
    return load_dataset(str(root), image_size=16, **options)


def test_files_that_cannot_be_decoded_are_found_among_good_ones(pictures):
    spoil(pictures)
    damage(pictures / "val/dog/001.png", 3)
    paths = sorted(pictures.glob("*/*/*.png"))
    counted = []
    found = unreadable(paths, advance=counted.append)
    assert [str(p.relative_to(pictures)) for p in found] == sorted([*BAD, "val/dog/001.png"])
    assert sum(counted) == len(paths) == 32
    assert unreadable([]) == []


def test_decoders_print_nothing_about_damaged_files(tmp_path, capfd):
    make_pictures(tmp_path, 2, "jpg")
    first, second = sorted(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-9])
    assert unreadable([first, second]) == [first]
    assert capfd.readouterr() == ("", "")
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_a_run_that_stops_names_all_of_them_at_once(pictures):
    """Where the first is met: when statistics are computed, or in the middle of an epoch."""
    data = load(pictures)
    spoil(pictures)

    def told(work):
        with pytest.raises(UnreadableImage) as caught:
            work()
        message = str(caught.value)
        assert message.startswith("4 image files: ") and "\n" not in message
        assert all(str(pictures / name) in message for name in BAD)
        assert message.endswith("cannot be read or decoded; on_error: skip leaves such files out")

    told(lambda: load(pictures))
    teacher = Teacher(tiny_model(2), range(2))

    def school(faculty):
        curriculum = Curriculum.single(range(2), 1, teachers=[0], target="full")
        student = Student(tiny_model(2), 1, input_size=(3, 16, 16))
        return School(student, faculty, curriculum, data, training=TRAINING)

    cached = CachedFaculty([teacher], pictures / "cache")
    told(lambda: cached.prepare(data, TRAINING.augment))
    plain = Curriculum.single(range(2), 1)
    student = Student(tiny_model(2), 1, input_size=(3, 16, 16))
    told(School(student, CachedFaculty([], pictures / "c"), plain, data, training=TRAINING).fit)


def test_many_are_counted_after_the_first_fifty(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(53)]
    assert f"{tmp_path}/49.png and 3 more: cannot be read" in str(UnreadableImage(*paths))


def test_names_that_cannot_be_printed_are_written_as_python_does(pictures):
    odd = b"caf\xe9\n.png"
    os.rename(pictures / "train/cat/003.png", os.fsencode(pictures / "train/cat") + b"/" + odd)
    torch.manual_seed(0)
    cached = CachedFaculty([Teacher(tiny_model(2), range(2))], pictures / "cache")
    cached.prepare(load(pictures), Augment(pad=1))
    (path,) = (p for p in (pictures / "train/cat").iterdir() if os.fsencode(p.name) == odd)
    damage(path, 0)
    with pytest.raises(UnreadableImage, match=r"caf\\udce9\\n.png': cannot") as caught:
        load(pictures)
    assert "\n" not in str(caught.value) and str(caught.value).encode()


def test_another_error_passes_through(pictures):
    with pytest.raises(ValueError, match="else"), naming_unreadable(load(pictures).train):
        raise ValueError("something else")


def test_skipping_leaves_them_out_and_moves_no_other(pictures):
    whole = load(pictures)
    spoil(pictures)
    with pytest.warns(
        UserWarning, match="28 image files are used, 4 left out, which cannot"
    ) as said:
        data = load(pictures, on_error="skip")
    message = str(said[0].message)
    assert "(3 for training, 1 for validation): " in message and "\n" not in message
    assert all(str(pictures / name) in message for name in BAD)
    for split, before in ((data.train, whole.train), (data.val, whole.val)):
        kept = [p for p in before.images if str(p.relative_to(pictures)) not in BAD]
        assert list(split.images) == kept
        assert split.labels.tolist() == [int(p.parent.name == "dog") for p in kept]
    with pytest.warns(UserWarning):
        again = load(pictures, on_error="skip")
    assert again.train.images == data.train.images and again.mean == data.mean


def test_a_holdout_stays_what_it_is_without_them(pictures):
    whole = load(pictures, holdout=0.3, seed=4)
    spoil(pictures)
    with pytest.warns(UserWarning, match="17 image files are used, 3 left out"):
        data = load(pictures, holdout=0.3, seed=4, on_error="skip")
    bad = {name.partition("/")[2] for name in BAD if name.startswith("train")}
    assert names(data.val) == names(whole.val) - bad
    assert names(data.train) == names(whole.train) - bad


def test_nothing_is_said_where_nothing_is_skipped(pictures):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(pictures, on_error="skip").train.images == load(pictures).train.images
        arrays = load_dataset("digits", on_error="skip")
    assert len(arrays.train)


def test_classes_and_splits_of_which_nothing_is_left_are_told(pictures):
    for path in (pictures / "val").glob("*/*"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no validation image can be read and decoded"):
        load(pictures, on_error="skip")
    for path in (pictures / "train" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no training image of class 'dog' can be read and dec"):
        load(pictures, on_error="skip")


def test_a_cache_of_logits_is_not_taken_for_that_of_more_files(pictures):
    teacher = Teacher(tiny_model(2), range(2))

    def prepared(data):
        torch.manual_seed(0)
        CachedFaculty([teacher], pictures / "cache").prepare(data, Augment(pad=1))

    data = load(pictures)
    prepared(data)
    prepared(load(pictures, on_error="skip"))
    spoil(pictures)
    with pytest.warns(UserWarning):
        fewer = load(pictures, on_error="skip")
    with pytest.raises(UserError, match="data set"):
        prepared(fewer)


def test_a_run_skips_and_says_so_in_one_line(pictures):
    spoil(pictures)
    recipe = pictures / "r.yaml"
    recipe.write_text(
        f"""
name: r
data: {{source: {pictures}, image_size: 16, on_error: skip}}
student: {{model: resnet8}}
curriculum: {{grades: [{{epochs: 1, classes: 0-1}}]}}
training: {{batch_size: 4, augment: {{pad: 1}}}}
"""
    )
    said = edufast("train", recipe, "--out", pictures / "run").stderr
    (line,) = [line for line in said.splitlines() if "left out" in line]
    assert line.startswith(f"warning: data source '{pictures}': 28 image files are used, 4 left")
    assert (pictures / "run" / "student.onnx").is_file()
    edufast("export", pictures / "run", "--out", pictures / "again.onnx")
    stopped = edufast(
        "train", recipe, "--set", "data.on_error=stop", "--out", pictures / "s", code=2
    )
    assert "4 image files: " in one_line(stopped)
    wrong = edufast("train", recipe, "--set", "data.on_error=ignore", code=2)
    assert "data.on_error: found 'ignore'; input should be 'stop' or 'skip'" in one_line(wrong)


# --- WebP ------------------------------------------------------------------------------------


def webp(orientation: int, **options) -> bytes:
    """A lossless picture with EXIF data."""
    pixels = np.random.default_rng(0).integers(0, 256, (22, 33, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, exif=exif.tobytes(), **options)
    return file.getvalue()


def chunk(content: bytes, at: int) -> tuple[bytes, int]:
    return content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("augment", [None, Augment(random_resized_crop=(0.5, 1.0))])
def test_webp_files_with_exif_behind_an_odd_chunk_are_read(orientation, augment, tmp_path):
    """As they are meant to be looked at, beside files of other formats."""
    odd = webp(orientation, icc_profile=b"x" * 131)
    assert chunk(odd, 30) == (b"ICCP", 131)
    (tmp_path / "a.webp").write_bytes(odd)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(odd))).convert("RGB")
    upright.save(tmp_path / "b.png")
    files = Samples((tmp_path / "a.webp", tmp_path / "b.png"), np.zeros(2, np.int64))
    assert unreadable(files.images) == []
    loader = Loader(
        files,
        batch_size=2,
        image_size=16,
        mean=(0, 0, 0),
        std=(1 / 255, 1 / 255, 1 / 255),
        augment=augment,
    )
    (batch,) = loader.epoch(0)
    if augment is None:
        torch.testing.assert_close(batch.images[0], batch.images[1])
    assert batch.images.isfinite().all()


def test_only_the_size_of_odd_chunks_of_webp_files_changes():
    odd = webp(1, icc_profile=b"x" * 131)
    even = with_even_chunks(odd)
    assert len(even) == len(odd) and chunk(even, 30) == (b"ICCP", 132)
    changed = [at for at in range(len(odd)) if odd[at] != even[at]]
    assert changed and changed[0] == 34
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(c))) for c in (odd, even)))
    png = io.BytesIO()
    Image.new("RGB", (3, 3)).save(png, "PNG")
    for other in (png.getvalue(), b"", b"RIFF", odd[:20], odd[:-1][:40], os.urandom(64)):
        assert len(with_even_chunks(other)) == len(other)
    assert with_even_chunks(png.getvalue()) == png.getvalue()


def tiff(order: str) -> bytes:
    """With an orientation of 1; the one of little-endian numbers is compressed, for libtiff."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    picture, options = Image.fromarray(pixels), {"compression": "tiff_lzw"}
    if order == "big":
        picture, options = Image.fromarray(pixels[:, :, 0].astype(">u2")), {}
    picture.save(file, "TIFF", tiffinfo={274: 1}, **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", [0, 6, 9, 77])
def test_an_orientation_that_there_is_not_is_upright_and_nobody_prints_a_line(
    order, orientation, tmp_path, capfd
):
    content = tiff(order)
    entry = b"".join(n.to_bytes(size, order) for n, size in ((274, 2), (3, 2), (1, 4)))
    upright, odd = (entry + n.to_bytes(2, order) for n in (1, orientation))
    assert content.count(upright) == 1 and content[:2] == (b"MM" if order == "big" else b"II")
    changed = content.replace(upright, odd)
    assert with_known_orientation(changed) == (changed if orientation == 6 else content)
    for name, each in (("odd.tif", changed), ("upright.tif", content)):
        (tmp_path / name).write_bytes(each)
    if orientation != 6:
        pictures = [np.asarray(read_picture(tmp_path / n)) for n in ("odd.tif", "upright.tif")]
        assert np.array_equal(*pictures)
    seen_in_validation(tmp_path / "odd.tif", 8)
    assert capfd.readouterr().err == ""


def test_a_damaged_or_missing_webp_file_is_named(tmp_path):
    make_pictures(tmp_path, 3, "webp")
    paths = sorted(tmp_path.iterdir())
    damage(paths[0], 1)
    damage(paths[2], 3)
    assert unreadable(paths) == [paths[0], paths[2]]


def test_without_dali_one_line_says_what_is_missing(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match="reading image files needs NVIDIA DALI: pip install"):
        unreadable([tmp_path / "x.png"])


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux")
def test_looking_for_corrupt_files_leaves_no_threads(tmp_path):
    """Also before the garbage collector finds what refers to itself."""
    make_pictures(tmp_path, 2)
    paths = sorted(tmp_path.iterdir())
    unreadable(paths)  # what DALI keeps
    gc.collect()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/task"))
        for _ in range(2):
            assert unreadable(paths) == []
        assert len(os.listdir("/proc/self/task")) <= before
    finally:
        gc.enable()
