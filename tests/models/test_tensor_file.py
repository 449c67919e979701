"""Files of tensors: errors in one line, and a fingerprint of every bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edufast.models.tensor_file import Fingerprint, open_tensors, raw_bytes, read_tensor
from edufast.utils.errors import UserError


def test_a_fingerprint_ignores_order_strides_and_nothing_else() -> None:
    a, b = torch.arange(6.0).view(2, 3), torch.arange(3)
    expected = Fingerprint({"a": a, "b": b}).hexdigest()
    transposed = a.t().contiguous().t()  # the same tensor in another layout
    assert not transposed.is_contiguous()
    assert Fingerprint({"b": b, "a": transposed}).hexdigest() == expected
    others = [
        {"a": a, "b": b.int()},
        {"a": a.view(3, 2), "b": b},
        {"c": a, "b": b},
        {"a": a},
        {"a": torch.nextafter(a, a + 1), "b": b},
    ]
    for tensors in others:
        assert Fingerprint(tensors).hexdigest() != expected
    assert Fingerprint({"a": a, "b": b}).hexdigest("text") != expected


def test_bytes_are_in_the_order_of_the_indices() -> None:
    a = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    assert bytes(raw_bytes(a)) == b"\x01\x02\x03\x04"
    assert bytes(raw_bytes(a.t())) == b"\x01\x03\x02\x04"


def test_what_is_no_file_of_tensors_is_named_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    for content, message in ((None, "no model at"), (b"nonsense", "is not a readable")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=message) as caught, open_tensors(path):
            pass
        assert "\n" not in str(caught.value)


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with open_tensors(path) as file:
        assert torch.equal(read_tensor(file, "a", path), torch.ones(2))
        with pytest.raises(UserError, match=r"'b' of .*t\.safetensors cannot be read"):
            read_tensor(file, "b", path)
