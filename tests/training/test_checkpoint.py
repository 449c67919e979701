import pytest
import torch

from edufast.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from edufast.utils.errors import UserError


def test_round_trip(tmp_path):
    state = {"a": torch.arange(3), "b": [1.5, "x"], "c": {"d": None}}
    save_checkpoint(tmp_path / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(loaded.pop("a"), state.pop("a")) and loaded == state


def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": torch.zeros(1000)})
    good = path.read_bytes()
    for position in (9, 45, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)
    path.write_bytes(good[:-10])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("owned",))

    save_checkpoint(tmp_path / "c.pt", {"a": Evil()})
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        load_checkpoint(tmp_path / "c.pt")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "other.pt").write_bytes(b"hello")
    with pytest.raises(UserError, match="not an EduFast checkpoint"):
        load_checkpoint(tmp_path / "other.pt")


def test_a_checkpoint_of_another_version_is_refused_in_a_line(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"a": 1})
    path.write_bytes(path.read_bytes().replace(b"EDUFAST2", b"EDUFAST1", 1))
    with pytest.raises(UserError, match="another version of EduFast: found format 1; expected 2"):
        load_checkpoint(path)


def test_where_a_checkpoint_is_damaged_the_one_before_is_taken(tmp_path):
    path, told = tmp_path / "c.pt", []
    assert latest_checkpoint(path, told.append) is None
    for number in range(3):
        save_checkpoint(path, {"a": number})
    assert latest_checkpoint(path, told.append) == {"a": 2} and told == []
    path.write_bytes(path.read_bytes()[:-1])
    assert latest_checkpoint(path, told.append) == {"a": 1}
    assert len(told) == 1 and "c.pt is damaged" in told[0]
    save_checkpoint(path, {"a": 3})
    assert load_checkpoint(path) == {"a": 3}
    assert load_checkpoint(tmp_path / "c.previous.pt") == {"a": 1}
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    assert latest_checkpoint(path, told.append) is None and len(told) == 3
