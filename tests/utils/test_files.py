"""Files appear whole or not at all."""

import os

import pytest

from edufast.utils.files import atomic_write, remove_partial_files


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


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_to_the_file_that_is_written(tmp_path, there):
    real, link = tmp_path / "store" / "real", tmp_path / "link"
    real.parent.mkdir()
    if there:
        real.write_text("old")
    link.symlink_to(real)
    with atomic_write(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and real.read_text() == "new"
    assert list(real.parent.iterdir()) == [real]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    class Killed(BaseException):
        pass

    kept = [tmp_path / ".hidden", tmp_path / "sub" / "f.partial"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # no time to clean up
        with atomic_write(tmp_path / "sub" / "f"):
            raise Killed
    for path in kept:
        path.touch()
    assert len(list((tmp_path / "sub").iterdir())) == 2
    remove_partial_files(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
