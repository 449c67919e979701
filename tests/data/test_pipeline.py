"""Loaders: which samples and views come in which order, from either maker of batches."""

from __future__ import annotations

import itertools
import weakref

import numpy as np
import pytest
import torch

from edufast.data import Augment, Batch, Samples, draw_views, numbered_views
from edufast.data.dali import DaliImages
from edufast.data.resident import ResidentImages
from tests.data.loading import SAMPLES, ShuffledSampler, make, normalised, pixels, same, training


@pytest.fixture(autouse=True, params=[ResidentImages, DaliImages])
def maker(request, monkeypatch):
    """Arrays that stay on the device, and arrays that are too large for that."""
    if request.param is DaliImages:
        monkeypatch.setattr("edufast.data.pipeline.fits", lambda images, device: False)
    assert isinstance(make()._maker, request.param)


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
def test_a_loader_goes_at_once(batches):
    loader = training()
    list(itertools.islice(loader.epoch(0), batches))
    gone = weakref.ref(loader), weakref.ref(loader._maker)
    del loader
    assert [reference() for reference in gone] == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1.5}, "batch_size is 1.5; expected an integer"),
        ({"batch_size": 10**12}, "batch_size is 1000000000000; expected at most"),
        ({"image_size": "16"}, "image_size is '16'; expected an integer"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"num_threads": 0}, "num_threads is 0; expected at least 1"),
        ({"device": "meta"}, "device is meta; expected cpu or cuda"),
        ({"augment": "flip"}, "augment is of type str; expected Augment"),
        ({"sampler": 3}, "sampler is of type int; expected a Sampler"),
        ({"drop_last": "no"}, "drop_last is of type str; expected bool"),
        ({"groups": [0, 1]}, r"groups\[0\] is 0; expected a sequence of integers"),
    ],
    ids=str,
)
def test_arguments_of_a_wrong_kind_are_named_in_one_line(options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        make(**options)


@pytest.mark.parametrize("wrong", [1.5, "a", None, -1, 2**70])
def test_epochs_and_starts_are_whole_numbers(wrong):
    for name in ("epoch", "start"):
        with pytest.raises(ValueError, match=f"^{name} is {wrong!r}; expected"):
            make().epoch(**{"epoch": 0, name: wrong})


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="batch_size: 64 leaves no batch of 50"):
        make(batch_size=64, drop_last=True)
    with pytest.raises(ValueError, match="image_size: 32, but the images are 16x16"):
        make(image_size=32)
    with pytest.raises(ValueError, match="random_resized_crop: for image files only"):
        make(augment=Augment(random_resized_crop=(0.5, 1.0)))
    with pytest.raises(ValueError, match="start is 8; expected at most 7"):
        make().epoch(0, 8)
    with pytest.raises(ValueError, match="samples: expected at least one, got none"):
        make(SAMPLES.subset(np.arange(0)))
    with pytest.raises(ValueError, match=r"groups\[1\] has a class of an earlier group"):
        make(groups=[[0, 1], [1, 2, 3, 4]])
    with pytest.raises(ValueError, match="groups: class 3 is in none, but the sampler visits it"):
        list(make(groups=[[0, 1], [2, 4]]).epoch(0))


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("augment", [Augment(), Augment(replay=5)])
def test_ranks_see_together_what_one_sees(ranks, augment, monkeypatch):
    """Every row once, with its view and its group, whatever the number of ranks; 50 samples in
    batches of 8 leave a batch of 2."""
    options = {"augment": augment, "groups": [range(2), range(2, 5)]}
    alone = list(training(**options).epoch(1))
    shares = []
    for rank in range(ranks):
        rows = slice(rank, None, ranks)
        monkeypatch.setattr("edufast.data.pipeline.own_rows", lambda rows=rows: rows)
        shares.append(training(spread=True, **options).epoch(1))
    for number, whole in enumerate(alone):
        for rank, share in enumerate(shares):
            rows = slice(rank, None, ranks)
            if not len(whole.labels[rows]):  # it goes without
                assert number == 6 and rank == 2
                continue
            batch = next(share)
            assert torch.equal(batch.images, whole.images[rows])
            assert torch.equal(batch.labels, whole.labels[rows])
            assert torch.equal(batch.index, whole.index[rows])
            assert torch.equal(batch.views, whole.views[rows])
            groups = np.repeat([0, 1], whole.parts)[rows]
            assert batch.parts == tuple(np.bincount(groups, minlength=2))
            assert torch.equal(batch.whole.labels, whole.labels)
            assert torch.equal(batch.whole.index, whole.index)
            assert batch.whole.parts == whole.parts
    assert all(next(share, None) is None for share in shares)
