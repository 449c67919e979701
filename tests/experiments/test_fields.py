"""Values that several sections of a recipe have."""

import pytest
from pydantic import TypeAdapter, ValidationError

from edufast.experiments.fields import ClassIds, ImageSize, check_class_ids
from edufast.utils.errors import UserError
from tests.tiny import tiny_data


@pytest.mark.parametrize(
    ("written", "ids"),
    [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0-1, 4,6-6", [0, 1, 4, 6]), ([3, 1], [3, 1])],
)
def test_class_ids_are_ranges_or_lists(written, ids):
    assert TypeAdapter(ClassIds).validate_python(written) == ids


@pytest.mark.parametrize("written", ["3-1", "a", "0-10000000000", "", "1-", [-1], [10**6]])
def test_what_is_no_class_id_is_refused(written):
    with pytest.raises(ValidationError):
        TypeAdapter(ClassIds).validate_python(written)


@pytest.mark.parametrize("size", [0, -1, 4097, 10**9])
def test_image_sizes_have_limits(size):
    assert TypeAdapter(ImageSize).validate_python(4096) == 4096
    with pytest.raises(ValidationError):
        TypeAdapter(ImageSize).validate_python(size)


def test_a_class_that_the_data_lack_is_named():
    check_class_ids("key", (0, 5), tiny_data())
    with pytest.raises(UserError, match="key: class 6; expected 0 to 5, the classes of tiny"):
        check_class_ids("key", (0, 6), tiny_data())
