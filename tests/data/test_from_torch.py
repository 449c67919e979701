"""Data sets of PyTorch as EduFast's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edufast.data import DataSet, load_dataset
from edufast.data.centre_crop import CentreCrop
from edufast.data.datasets import pixel_statistics
from edufast.student.student import Student
from edufast.teachers.faculty import Faculty
from edufast.training.curriculum import Curriculum
from edufast.training.school import School
from edufast.utils.errors import UserError
from tests.tiny import TRAINING, tiny_data, tiny_model

TINY = tiny_data()


class Items(torch.utils.data.Dataset):
    """Of images and labels, each image as ``form`` makes it of an array (H, W, 3)."""

    def __init__(self, images: Any, labels: Any, form: Any = lambda image: image) -> None:
        self.items = [(form(i), label) for i, label in zip(images, labels, strict=True)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).movedim(-1, 0)


FORMS = [
    Image.fromarray,
    lambda image: image,
    tensor,
    lambda image: tensor(image) / 255,
    lambda image: tensor(image).double() / 255,
]


def splits(form: Any = lambda image: image) -> list[Items]:
    return [Items(s.images, s.labels.tolist(), form) for s in (TINY.train, TINY.val)]


@pytest.mark.parametrize("form", FORMS)
def test_images_of_every_kind_are_the_same_pixels(form: Any) -> None:
    data = DataSet.from_torch(*splits(form), name="mine")
    for found, expected in ((data.train, TINY.train), (data.val, TINY.val)):
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert (data.name, data.classes, data.image_size) == ("mine", tuple("012345"), 16)
    assert (data.mean, data.std) == pixel_statistics(TINY.train, 16)


def test_a_school_learns_from_it() -> None:
    data = DataSet.from_torch(*splits())
    student = Student(tiny_model(), 1, input_size=(3, 16, 16))
    school = School(student, Faculty([]), Curriculum.single(range(6), 8), data, training=TRAINING)
    school.fit()
    assert school.progress.accuracy > 0.9


def test_images_of_any_size_are_seen_as_in_validation() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20 + i, 31, 3), dtype=np.uint8) for i in range(4)]
    some = Items(images, [0, 1, 0, 1], Image.fromarray)
    data = DataSet.from_torch(some, some, image_size=12, classes=["a", "b"])
    view = CentreCrop.to(12, 12)
    for found, image in zip(data.val.images, images, strict=True):
        np.testing.assert_array_equal(found, view(Image.fromarray(image)))
    with pytest.raises(UserError, match=r"train\[1\] is \(21, 31\), the images before are"):
        DataSet.from_torch(some, some)
    oblong = Items(images[:1] * 4, [0, 1, 0, 1])
    with pytest.raises(UserError, match=r"train has images of \(20, 31\); expected squares"):
        DataSet.from_torch(oblong, oblong)


def test_names_are_those_that_are_given_or_that_the_data_set_has() -> None:
    train, val = splits()
    train.classes = list("uvwxyz")
    assert DataSet.from_torch(train, val).classes == tuple("uvwxyz")
    assert DataSet.from_torch(train, val, classes=list("abcdef")).classes == tuple("abcdef")
    with pytest.raises(UserError, match="classes names 3 classes; the labels have 6"):
        DataSet.from_torch(train, val, classes=list("abc"))
    with pytest.raises(UserError, match="train has no image of class 'g'"):
        DataSet.from_torch(train, val, classes=list("abcdefg"))


IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, r"train\[0\] is a int; expected \(image, label\)"),
        ((IMAGE,), "is a tuple; expected"),
        ((tensor(IMAGE) - 1.5, 0), "values from -1.5 to -1.5; expected 0 to 1: a School normal"),
        ((torch.full((3, 8, 8), float("nan")), 0), "values from nan to nan"),
        ((IMAGE.astype(float), 0), r"is a ndarray float64 \(8, 8, 3\); expected a PIL image"),
        ((torch.zeros(4, 8, 8), 0), r"ndarray uint8 \(8, 8, 4\)"),
        ((torch.zeros(2, 3, 8, 8), 0), r"is a Tensor torch.float32 torch.Size\(\[2, 3, 8, 8\]\)"),
        (("a.png", 0), r"is a str; expected a PIL image"),
        ((IMAGE, -1), "has the label -1; expected an integer from 0"),
        ((IMAGE, 0.5), "has the label 0.5"),
        ((IMAGE, "cat"), "has the label 'cat'"),
        ((IMAGE, float("inf")), "has the label inf; expected an integer from 0"),
        ((IMAGE, 2**70), "has the label 1180591620717411303424; expected an integer from 0"),
        ((IMAGE, torch.tensor([0, 1])), r"has the label tensor\(\[0, 1\]\); expected an integer"),
        ((IMAGE[:0], 0), r"is a ndarray uint8 \(0, 8, 3\); expected a PIL image"),
        ((torch.zeros(3, 0, 8), 0), r"ndarray float32 \(0, 8, 3\); expected a PIL image"),
        ((torch.zeros(3, 8, 8, device="meta"), 0), r"\(torch.strided on meta\); expected a PIL"),
        ((torch.zeros(3, 8, 8).to_sparse(), 0), r"\(torch.sparse_coo on cpu\); expected a PIL"),
    ],
)
def test_items_of_another_kind_are_told(item: Any, message: str) -> None:
    class Single(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, i: int) -> Any:
            return item

    with pytest.raises(UserError, match=message):
        DataSet.from_torch(Single(), Single())


def test_a_data_set_without_items_or_of_one_class_is_told() -> None:
    with pytest.raises(UserError, match="train: the data set has no items"):
        DataSet.from_torch(Items([], []), Items([], []))
    one = Items([IMAGE], [0])
    with pytest.raises(UserError, match="classes names 1 classes; the labels have 1, at least 2"):
        DataSet.from_torch(one, one)


def test_greys_of_more_than_8_bits_are_scaled_as_those_of_files_are() -> None:
    deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    grey = Items([Image.fromarray(deep)] * 4, [0, 1, 0, 1])
    images = DataSet.from_torch(grey, grey).train.images
    np.testing.assert_array_equal(images[0, :, :, 0], (deep / 257).round().astype(np.uint8))


def test_greys_of_floats_reach_from_0_to_1() -> None:
    """Pillow's convert("F") gives up to 255, which would be white."""
    shares = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    small = Items([Image.fromarray(shares)] * 4, [0, 1, 0, 1])
    assert DataSet.from_torch(small, small).train.images.max() == 255
    large = Items([Image.fromarray(IMAGE + 9).convert("F")] * 4, [0, 1, 0, 1])
    with pytest.raises(UserError, match=r"train\[0\] has values from .*; expected 0 to 1"):
        DataSet.from_torch(large, large)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 5}, "train is of type int, which has no length; expected a data set of items"),
        ({"val": iter([])}, "val is of type list_iterator, which has no length"),
        ({"train": {1, 2}}, r"train\[0\]: TypeError: 'set' object is not subscriptable"),
        ({"classes": "ab"}, "classes is of type str; expected a sequence of names, in the order"),
        ({"classes": {"b": 1, "a": 0}}, "classes is of type dict; expected a sequence of names"),
        ({"classes": ["a", "a"]}, "classes has 'a' 2 times; expected each name once"),
        ({"classes": ["a", "b\x1b"]}, r"classes: class 'b\\x1b': expected a name in UTF-8"),
        ({"classes": []}, "classes names 0 classes; the labels have 2, at least 2"),
        ({"image_size": 0}, "image_size is 0; expected at least 1"),
        ({"image_size": 10**30}, "image_size is 10{30}; expected at most 4096"),
        ({"image_size": "8"}, "image_size is '8'; expected an integer"),
        ({"name": 3}, "name is of type int; expected str"),
    ],
)
def test_arguments_of_another_kind_are_named(changes: dict[str, Any], message: str) -> None:
    some = Items([IMAGE] * 4, [0, 1, 0, 1])
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        DataSet.from_torch(**{"train": some, "val": some, **changes})
    assert "\n" not in str(caught.value)


def test_a_label_far_beyond_the_others_takes_no_memory() -> None:
    some = Items([IMAGE] * 3, [0, 1, 2**60])
    with pytest.raises(UserError, match="train has no image of class '2'"):
        DataSet.from_torch(some, some)


def test_grey_tensors_have_three_channels() -> None:
    grey = Items([torch.rand(1, 8, 8) for _ in range(4)], [0, 1, 0, 1])
    images = DataSet.from_torch(grey, grey).train.images
    assert images.shape == (4, 8, 8, 3) and (images[..., 0] == images[..., 2]).all()


def test_it_agrees_with_the_reader_of_a_published_set() -> None:
    digits = load_dataset("digits")
    train, val = (Items(s.images, s.labels) for s in (digits.train, digits.val))
    data = DataSet.from_torch(train, val, classes=digits.classes)
    assert (data.mean, data.std, data.image_size) == (digits.mean, digits.std, digits.image_size)
