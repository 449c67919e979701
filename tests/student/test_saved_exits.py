"""The exits of a finished student on disk."""

from __future__ import annotations

import pytest
import torch

from edufast.models.zoo import create_model
from edufast.student.early_exits import EarlyExit
from edufast.student.saved_exits import load_exits, save_exits
from edufast.utils.errors import UserError
from tests.student.test_early_exits import CLASSES, finished, images

SIZE = (3, 16, 16)


@pytest.mark.parametrize("head", ["grid", "pool_first", "paper", "linear"])
def test_a_student_is_restored_with_its_exits_in_the_order_of_class_ids(tmp_path, head) -> None:
    student = finished(head=head)
    graduate = student.graduate()
    save_exits(tmp_path / "exits.safetensors", student, graduate)
    restored = load_exits(tmp_path / "exits.safetensors", graduate, SIZE)
    assert restored.depths == student.depths and not restored.training
    order = list(student.columns_by_id)
    for found, expected in zip(
        restored.forward_exits(images()), student.forward_exits(images()), strict=True
    ):
        torch.testing.assert_close(found, expected[:, order])
    found, expected = (EarlyExit(each, 0.3)(images()) for each in (restored, student))
    assert torch.equal(found.depth, expected.depth)
    torch.testing.assert_close(found.logits, expected.logits)


def test_exits_of_another_graduate_are_refused(tmp_path) -> None:
    student = finished()
    save_exits(tmp_path / "exits.safetensors", student, student.graduate())
    with pytest.raises(UserError, match="exits of another student"):
        load_exits(tmp_path / "exits.safetensors", create_model("resnet8", CLASSES), SIZE)


def test_a_flipped_bit_and_another_file_are_one_line(tmp_path) -> None:
    student, path = finished(), tmp_path / "exits.safetensors"
    graduate = student.graduate()
    save_exits(path, student, graduate)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        load_exits(path, graduate, SIZE)
    path.write_bytes(b"x")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_exits(path, graduate, SIZE)
    path.unlink()
    with pytest.raises(UserError, match="no model at"):
        load_exits(path, graduate, SIZE)
