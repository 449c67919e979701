"""Files appear whole or not at all."""

import os

import pytest

from edufast.utils.files import atomic_write


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_the_mode_that_open_would_have_given(tmp_path):
    with atomic_write(tmp_path / "new" / "f") as temporary:
        temporary.write_text("all")
    (tmp_path / "plain").write_text("all")
    assert (tmp_path / "new" / "f").read_text() == "all"
    modes = [os.stat(path).st_mode for path in (tmp_path / "new" / "f", tmp_path / "plain")]
    assert modes[0] == modes[1]
