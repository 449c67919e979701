"""Views of images: how many there are, and that they are functions of where they are used."""

from __future__ import annotations

import numpy as np
import pytest

from edufast.data import Augment, draw_views, numbered_views


def test_views_cover_all_shifts_and_both_sides():
    views = draw_views(Augment(pad=2), np.arange(2000), seed=0, epoch=0, iteration=0)
    corners, counts = np.unique(views.shift, axis=0, return_counts=True)
    assert len(corners) == 25 and counts.min() > 40
    assert 900 < views.flip.sum() < 1100
    other = draw_views(Augment(pad=2, flip=False), np.arange(2000), seed=0, epoch=0, iteration=0)
    assert np.array_equal(views.shift, other.shift) and not other.flip.any()


def test_every_batch_has_views_of_its_own():
    places = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1)]  # seed, epoch, iteration
    drawn = {
        draw_views(
            Augment(), np.arange(64), seed=seed, epoch=epoch, iteration=iteration
        ).shift.tobytes()
        for seed, epoch, iteration in places
    }
    assert len(drawn) == len(places)


# Every view there is: by table, of a few shifts only, and replayed from a large family.
@pytest.mark.parametrize(
    ("augment", "count"),
    [
        (Augment(), 162),
        (Augment(pad=1, flip=False), 9),
        (Augment(pad=0), 2),
        (Augment(pad=0, flip=False), 1),
        (Augment(pad=3, replay=5), 5),
        (Augment(random_resized_crop=(0.1, 1.0), replay=7), 7),
        (Augment(random_resized_crop=(0.1, 1.0)), None),
    ],
)
def test_views_are_counted(augment, count):
    assert augment.views == count


def test_replayed_views_belong_to_sample_and_number():
    augment = Augment(pad=4, random_resized_crop=(0.1, 1.0), replay=3)
    samples, numbers = np.repeat(np.arange(500), 3), np.tile(np.arange(3), 500)
    views = numbered_views(augment, samples, numbers)
    one = numbered_views(augment, samples[700:701], numbers[700:701])
    assert np.array_equal(one.box[0], views.box[700]) and one.flip[0] == views.flip[700]
    assert len(np.unique(views.box, axis=0)) == 1500
    # Spread over all there is, and no parameter says anything about another.
    assert np.abs(views.shift.mean(0)).max() < 0.3 and set(views.shift.ravel()) == set(range(-4, 5))
    assert 0.45 < views.flip.mean() < 0.55
    together = np.column_stack([views.shift, views.flip, views.box, samples, numbers])
    correlation = np.corrcoef(together, rowvar=False) - np.eye(9)
    assert np.abs(correlation).max() < 0.1
    drawn = draw_views(augment, samples, seed=0, epoch=1, iteration=2)
    assert {tuple(box) for box in drawn.box} <= {tuple(box) for box in views.box}


def test_without_any_augmentation_there_is_one_view():
    views = draw_views(Augment(pad=0, flip=False), np.arange(9), seed=3, epoch=1, iteration=0)
    assert not views.shift.any() and not views.flip.any() and not views.numbers.any()
    assert (views.box == [1, 1, 0, 0]).all()


def test_crops_have_the_areas_and_ratios_asked_for():
    augment = Augment(random_resized_crop=(0.2, 0.6))
    box = draw_views(augment, np.arange(4000), seed=0, epoch=0, iteration=0).box
    assert 0.2 <= box[:, 0].min() < 0.21 and 0.59 < box[:, 0].max() <= 0.6
    assert box[:, 1].min() == pytest.approx(3 / 4, rel=0.01)
    assert box[:, 1].max() == pytest.approx(4 / 3, rel=0.01)
    assert (box[:, 2:] >= 0).all() and (box[:, 2:] < 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pad": -1}, "pad is -1; expected at least 0"),
        ({"random_resized_crop": (0.0, 1.0)}, "random_resized_crop: expected 0 < smallest"),
        ({"random_resized_crop": (0.6, 0.5)}, "random_resized_crop: expected 0 < smallest"),
        ({"replay": 0}, "replay is 0; expected at least 1"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)
