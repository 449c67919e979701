from __future__ import annotations

import itertools
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from edufast.data import Augment, Batch, Loader, Samples, draw_views, numbered_views
from edufast.data.centre_crop import CENTRE_SHARE
from edufast.utils.errors import UserError
from tests.remote import Transfer, Transfers

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RNG = np.random.default_rng(0)
SAMPLES = Samples(
    RNG.integers(0, 256, size=(50, 16, 16, 3), dtype=np.uint8),
    RNG.permutation(np.repeat(np.arange(5), 10)),
)


class ShuffledSampler:
    """All samples of ``classes``, in another order every epoch."""

    def __init__(self, classes, seed):
        self.samples, self.seed = np.flatnonzero(np.isin(SAMPLES.labels, list(classes))), seed

    def __len__(self):
        return len(self.samples)

    def __call__(self, epoch):
        return np.random.default_rng([self.seed, epoch]).permutation(self.samples)


def make(samples=SAMPLES, **options):
    defaults = {"batch_size": 8, "image_size": 16, "mean": MEAN, "std": STD}
    return Loader(samples, **(defaults | options))


def training(**options):
    sampler = ShuffledSampler(range(5), seed=3)
    return make(**({"sampler": sampler, "augment": Augment(), "seed": 1} | options))


def normalised(pixels):
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float64, as plainly as it can be said."""
    return ((pixels / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)


def pixels(images):
    """The inverse, exactly."""
    images = images.permute(0, 2, 3, 1).double().numpy() * np.array(STD) + np.array(MEAN)
    rounded = np.rint(images * 255)
    assert np.abs(images * 255 - rounded).max() < 1e-3
    return rounded.astype(np.uint8)


def same(some, others):
    some, others = list(some), list(others)
    if len(some) != len(others):
        return False
    pairs = zip(
        (part for x in some for part in x), (part for y in others for part in y), strict=True
    )
    return all(torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in pairs)


def test_validation_is_every_image_in_order_normalised():
    batches = list(make().epoch(0))
    assert [len(batch.labels) for batch in batches] == [8] * 6 + [2]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(50))
    assert torch.cat([batch.labels for batch in batches]).tolist() == SAMPLES.labels.tolist()
    images = torch.cat([batch.images for batch in batches])
    assert np.allclose(images.numpy(), normalised(SAMPLES.images), atol=1e-6)


def test_layout_and_types():
    batch = next(training().epoch(0))
    assert batch.images.dtype == torch.float32 and batch.images.shape == (8, 3, 16, 16)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.dtype == batch.index.dtype == torch.int64


def test_channels_stay_red_green_blue():
    image = np.zeros((1, 16, 16, 3), dtype=np.uint8) + np.array([255, 0, 51], dtype=np.uint8)
    loader = make(Samples(image, np.zeros(1, dtype=np.int64)), mean=(0, 0, 0), std=(1, 1, 1))
    assert next(loader.epoch(0)).images[0, :, 5, 5].tolist() == pytest.approx([1.0, 0.0, 0.2])


@pytest.mark.parametrize("augment", [Augment(), Augment(pad=0), Augment(pad=3, flip=False)])
def test_crops_and_flips_are_those_drawn(augment):
    loader = training(augment=augment)
    for number, batch in enumerate(loader.epoch(2)):
        views = draw_views(augment, batch.index.numpy(), seed=1, epoch=2, iteration=number)
        padded = np.pad(SAMPLES.images, ((0, 0), (4, 4), (4, 4), (0, 0)))
        expected = []
        for i, (y, x), flip in zip(batch.index, views.shift, views.flip, strict=True):
            view = padded[i, 4 + y : 20 + y, 4 + x : 20 + x]
            expected.append(view[:, ::-1] if flip else view)
        assert np.array_equal(pixels(batch.images), expected)


def test_a_view_is_known_by_its_number():
    """What the numbers of all batches say is what the batches show; each number is one view."""
    augment = Augment(pad=1)
    table = numbered_views(augment, np.zeros(18, dtype=int), np.arange(18))
    different = np.unique(np.column_stack([table.shift, table.flip]), axis=0)
    assert len(different) == 18
    loader = training(augment=augment)
    numbers = []
    for epoch in range(3):
        for number, batch in enumerate(loader.epoch(epoch)):
            drawn = draw_views(augment, batch.index.numpy(), seed=1, epoch=epoch, iteration=number)
            assert torch.equal(batch.views // 18, batch.index)
            assert np.array_equal(batch.views % 18, drawn.numbers)
            assert np.array_equal(table.shift[drawn.numbers], drawn.shift)
            assert np.array_equal(table.flip[drawn.numbers], drawn.flip)
            numbers += drawn.numbers.tolist()
    assert set(numbers) == set(range(18))


def test_shifts_are_replayed():
    loader = training(augment=Augment(pad=2, replay=3))
    shown: dict[int, torch.Tensor] = {}
    for epoch in range(4):
        for batch in loader.epoch(epoch):
            for view, image in zip(batch.views.tolist(), batch.images, strict=True):
                assert torch.equal(shown.setdefault(view, image), image)
    assert len(shown) > len(loader)  # several views of a sample


def test_views_that_cannot_be_counted_have_no_number(files):
    augment = Augment(random_resized_crop=(0.1, 1.0))
    assert next(make(files, image_size=32, augment=augment).epoch(0)).views is None
    augment = Augment(random_resized_crop=(0.1, 1.0), replay=2)
    loader = make(files, image_size=32, augment=augment, batch_size=3)
    shown = {}
    for epoch in range(12):
        (batch,) = loader.epoch(epoch)
        for view, image in zip(batch.views.tolist(), batch.images, strict=True):
            assert torch.equal(shown.setdefault(view, image), image)
    assert len(shown) == 6


def test_any_views_can_be_asked_for():
    """The pixels of an epoch again, by their numbers alone, in other batches."""
    loader = training(drop_last=True)
    drawn = list(loader.epoch(1))
    views = torch.cat([batch.views for batch in drawn]).numpy()
    again = list(training(batch_size=20, seed=9).numbered(*np.divmod(views, 162)))
    assert [len(batch.index) for batch in again] == [20, 20, 8]
    for name in ("images", "labels", "index", "views"):
        first, second = (
            torch.cat([getattr(b, name) for b in batches]) for batches in (drawn, again)
        )
        assert torch.equal(first, second)


def test_rows_are_grouped_and_the_host_knows_where():
    groups = [[3, 0], [4], [1, 2]]
    plain, grouped = list(training().epoch(2)), list(training(groups=groups).epoch(2))
    for before, batch in zip(plain, grouped, strict=True):
        assert sorted(before.index.tolist()) == sorted(batch.index.tolist())
        group = [next(g for g in range(3) if label in groups[g]) for label in batch.labels]
        assert group == sorted(group)
        assert batch.parts == tuple(group.count(g) for g in range(3))
        assert before.parts == ()
        # The images went along.
        assert torch.equal(batch.labels, torch.from_numpy(SAMPLES.labels)[batch.index])
    unaltered = make(groups=groups).epoch(0)
    for batch in unaltered:
        assert np.array_equal(pixels(batch.images), SAMPLES.images[batch.index])
    assert same(grouped[3:], training(groups=groups).epoch(2, 3))


def test_an_epoch_visits_the_classes_asked_for_once_with_their_labels():
    sampler = ShuffledSampler([1, 3], seed=0)
    batches = list(training(sampler=sampler).epoch(0))
    index = torch.cat([batch.index for batch in batches]).numpy()
    assert sorted(index) == np.flatnonzero(np.isin(SAMPLES.labels, [1, 3])).tolist()
    assert np.array_equal(torch.cat([b.labels for b in batches]).numpy(), SAMPLES.labels[index])


def test_the_same_epoch_is_the_same_bit_for_bit_whatever_came_before():
    loader = training()
    first = list(loader.epoch(4))
    assert same(first, loader.epoch(4))
    next(loader.epoch(9))  # abandoned, with batches of it in the queue
    assert same(first, loader.epoch(4))
    assert same(first, training(num_threads=4).epoch(4))
    assert not same(first, loader.epoch(5))
    assert not same(first, training(seed=2).epoch(4))


@pytest.mark.parametrize("start", [0, 1, 5, 6, 7])  # the first, some, the partial one, the end
def test_an_epoch_resumes_at_any_batch(start):
    assert same(list(training().epoch(1))[start:], training().epoch(1, start))


def test_labels_and_index_go_to_a_gpu_together_and_are_not_waited_for():
    loader = training()
    loader._device = torch.device("cuda", 0)
    (plan, *_) = loader._plan(np.arange(50)[::-1], epoch=0, start=0)
    with Transfers() as transfers:
        labels, index = loader._numbers(plan)
    assert transfers.made == [Transfer(pinned=True, non_blocking=True)]
    assert index.tolist() == list(range(49, 41, -1)) and index.dtype == torch.int64
    assert labels.tolist() == SAMPLES.labels[index].tolist() and labels.dtype == torch.int64


def test_drop_last_leaves_out_the_partial_batch():
    loader = training(drop_last=True)
    assert len(loader) == 6
    assert [len(batch.index) for batch in loader.epoch(0)] == [8] * 6
    assert len(training()) == 7 == len(list(training().epoch(0)))


def test_batches_held_are_not_overwritten():
    loader = training()
    held = list(loader.epoch(0))
    copies = [Batch(*(part.clone() for part in batch[:4]), batch.parts) for batch in held]
    list(loader.epoch(1))
    assert same(held, copies)


def test_loaders_do_not_disturb_each_other():
    loaders = [training(seed=seed) for seed in range(4)]
    alone = [list(loader.epoch(0)) for loader in loaders]
    together = list(zip(*[loader.epoch(0) for loader in loaders], strict=True))
    assert all(same(batches, alone[i]) for i, batches in enumerate(zip(*together, strict=True)))


def test_a_newer_epoch_ends_the_older():
    loader = training()
    older = loader.epoch(0)
    next(older)
    newer = loader.epoch(1)
    next(newer)
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        next(older)
    assert same(newer, training().epoch(1, 1))


@pytest.mark.parametrize("batches", [None, 1])  # all of an epoch, or not
def test_a_loader_goes_at_once_with_its_pipeline(batches):
    loader = training()
    list(itertools.islice(loader.epoch(0), batches))
    gone = weakref.ref(loader), weakref.ref(loader._pipeline)
    del loader
    assert [reference() for reference in gone] == [None, None]


# Image files. Red counts the columns, green the rows, so that a pixel says where it comes from.


@pytest.fixture
def files(tmp_path):
    paths = []
    for number, (height, width) in enumerate([(100, 200), (240, 120), (128, 128)]):
        rows, columns = np.mgrid[:height, :width].astype(np.uint8)
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1)).save(path)
        paths.append(path)
    return Samples(tuple(paths), np.arange(3, dtype=np.int64))


PLAIN = {"mean": (0, 0, 0), "std": (1 / 255, 1 / 255, 1 / 255)}


def test_files_are_decoded_exactly_and_cropped_at_the_centre(tmp_path):
    image = RNG.integers(0, 256, size=(16, 20, 3), dtype=np.uint8)
    grey = RNG.integers(0, 256, size=(16, 16), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "colour ü.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    paths = tmp_path / "colour ü.png", tmp_path / "grey.png"
    (batch,) = make(Samples(paths, np.zeros(2, dtype=np.int64))).epoch(0)
    assert np.array_equal(pixels(batch.images)[0], image[:, 2:18])
    assert np.array_equal(pixels(batch.images)[1], np.stack([grey] * 3, axis=-1))


def test_large_files_lose_their_rim_at_validation(files):
    (batch,) = make(files, image_size=160, **PLAIN).epoch(0)
    shown = batch.images[2, 0, 80]  # the middle row of the square image
    assert (shown[-1] - shown[0]).item() == pytest.approx(128 * CENTRE_SHARE, abs=2)
    assert shown.mean().item() == pytest.approx(63.5, abs=1)


def test_resizing_agrees_with_pillow(tmp_path):
    """Interpolation and antialiasing as in torchvision, which resizes with Pillow."""
    rough = RNG.integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(rough).resize((500, 376), Image.Resampling.BICUBIC)
    image.save(tmp_path / "image.png")
    small = image.resize((340, 256), Image.Resampling.BILINEAR).crop((58, 16, 282, 240))
    samples = Samples((tmp_path / "image.png",), np.zeros(1, dtype=np.int64))
    (batch,) = make(samples, image_size=224, **PLAIN).epoch(0)
    shown = batch.images[0].permute(1, 2, 0).numpy()
    assert np.abs(shown - np.asarray(small)).mean() < 1


def test_files_can_be_shifted_and_flipped_like_arrays(files):
    augment = Augment(pad=4)
    plain = next(make(files, image_size=32).epoch(0))
    (batch,) = make(files, image_size=32, augment=augment, seed=5).epoch(0)
    views = draw_views(augment, np.arange(3), seed=5, epoch=0, iteration=0)
    padded = np.pad(pixels(plain.images), ((0, 0), (4, 4), (4, 4), (0, 0)))
    for i, ((y, x), flip) in enumerate(zip(views.shift, views.flip, strict=True)):
        view = padded[i, 4 + y : 36 + y, 4 + x : 36 + x]
        assert np.array_equal(pixels(batch.images)[i], view[:, ::-1] if flip else view)


def test_random_resized_crops_show_the_box_drawn(files):
    augment = Augment(random_resized_crop=(0.2, 0.9))
    loader = make(files, image_size=32, augment=augment, seed=7, **PLAIN)
    for epoch in range(8):
        (batch,) = loader.epoch(epoch)
        views = draw_views(augment, np.arange(3), seed=7, epoch=epoch, iteration=0)
        for path, image, flip, box in zip(
            files.images, batch.images, views.flip, views.box, strict=True
        ):
            width, height = Image.open(path).size
            area, ratio, y, x = box.astype(float)
            box_width = min(width, np.sqrt(area * width * height * ratio))
            box_height = min(height, np.sqrt(area * width * height / ratio))
            left, top = (width - box_width) * x, (height - box_height) * y
            shown = image.flip(2) if flip else image
            assert shown[0].mean().item() == pytest.approx(left + box_width / 2 - 0.5, abs=1)
            assert shown[1].mean().item() == pytest.approx(top + box_height / 2 - 0.5, abs=1)
            step_x, step_y = box_width / 32, box_height / 32
            assert (shown[0, 0, 24] - shown[0, 0, 8]).item() == pytest.approx(16 * step_x, abs=2)
            assert (shown[1, 24, 0] - shown[1, 8, 0]).item() == pytest.approx(16 * step_y, abs=2)


def test_epochs_of_files_resume_and_repeat(files):
    augment = Augment(random_resized_crop=(0.1, 1.0))
    loader = make(files, image_size=32, augment=augment, batch_size=1)
    first = list(loader.epoch(0))
    assert same(first, loader.epoch(0))
    assert same(first[1:], make(files, image_size=32, augment=augment, batch_size=1).epoch(0, 1))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not an image"),
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["text", "truncated", "empty", "missing"],
)
@pytest.mark.parametrize("augment", [None, Augment(random_resized_crop=(0.1, 1.0))])
@pytest.mark.parametrize("batch_size", [1, 3])  # the culprit in a later batch, or in the first
def test_a_corrupt_file_is_named_and_the_loader_survives(files, damage, augment, batch_size):
    loader = make(files, image_size=32, augment=augment, batch_size=batch_size)
    first = list(loader.epoch(0))
    good = files.images[1].read_bytes()
    damage(files.images[1])
    with pytest.raises(UserError, match=rf"image file .*{files.images[1].name}: cannot be read"):
        list(loader.epoch(0))
    files.images[1].write_bytes(good)
    assert same(first, loader.epoch(0))


def test_a_failure_in_an_abandoned_epoch_does_not_reach_the_next(files):
    loader = make(files, image_size=32, batch_size=1)
    first = list(loader.epoch(0))
    good = files.images[1].read_bytes()
    files.images[1].write_bytes(b"not an image")
    next(loader.epoch(0))
    files.images[1].write_bytes(good)
    assert same(first, loader.epoch(0))


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="batch_size: 64 leaves no batch of 50"):
        make(batch_size=64, drop_last=True)
    with pytest.raises(ValueError, match="image_size: 32, but the images are 16x16"):
        make(image_size=32)
    with pytest.raises(ValueError, match="random_resized_crop: for image files only"):
        make(augment=Augment(random_resized_crop=(0.5, 1.0)))
    with pytest.raises(ValueError, match="start: expected 0 to 7 batches, got 8"):
        make().epoch(0, 8)
    with pytest.raises(ValueError, match="groups: class 3 is in none, but the sampler visits it"):
        list(make(groups=[[0, 1], [2, 4]]).epoch(0))


def test_without_dali_only_a_loader_is_refused():
    program = """
import sys
sys.modules["nvidia.dali"] = None
import numpy as np
import edufast.data as data
from edufast.utils.errors import UserError
samples = data.Samples(np.zeros((1, 8, 8, 3), np.uint8), np.zeros(1, np.int64))
try:
    data.Loader(samples, batch_size=1, image_size=8, mean=(0, 0, 0), std=(1, 1, 1))
except UserError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "loading data needs NVIDIA DALI: pip install nvidia-dali-cuda130\n"
