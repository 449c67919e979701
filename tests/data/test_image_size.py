"""How large images are shown where a recipe does not say it."""

from pathlib import Path

import numpy as np
import pytest

from edufast.data import DataSet, Samples, Splits
from edufast.data.image_size import sizes_to_decide, usual_size


def test_recipes_see_what_the_data_set_says_or_arrays_hold_or_photographs_need() -> None:
    labels = np.array([0, 1])
    arrays = Samples(np.zeros((2, 12, 20, 3), np.uint8), labels)
    files = Samples((Path("a.png"), Path("b.png")), labels)
    classes = ("a", "b")
    assert usual_size("mine", Splits(classes, arrays, arrays)) == 20
    assert usual_size("mine", Splits(classes, files, files)) == 224
    assert usual_size("tiny_imagenet:folder", Splits(classes, files, files)) == 64
    own = DataSet("mine", classes, arrays, arrays, 40, (0.5,) * 3, (0.2,) * 3)
    assert usual_size("mine", own) == 40


@pytest.mark.parametrize(
    ("side", "learned_at", "sizes"),
    [
        (1000, None, [32, 48, 64, 96, 128]),
        (64, None, [32, 48, 64]),
        (20, None, [20]),
        (3, None, [8]),
        (None, None, [32]),
        (1000, 160, [32, 48, 64, 96, 128, 160]),
        (100, 160, [32, 48, 64, 96, 100]),
        (100, 24, [24]),
        (3, 24, [8]),
    ],
)
def test_sizes_to_decide_are_no_larger_than_the_pictures_and_what_weights_know(
    side: int | None, learned_at: int | None, sizes: list[int]
) -> None:
    assert sizes_to_decide(side, learned_at) == sizes
