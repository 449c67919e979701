"""Files appear whole or not at all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from edufast.utils import files
from edufast.utils.errors import UserError
from edufast.utils.files import (
    atomic_files,
    atomic_folder,
    atomic_write,
    cache_folder,
    remove_partial_files,
)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_to_be_written_unless_it_names_another(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "f"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "f")
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "f"):
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")


def test_a_written_file_has_the_mode_that_open_would_have_given(tmp_path):
    with atomic_write(tmp_path / "new" / "f") as temporary:
        temporary.write_text("all")
    (tmp_path / "plain").write_text("all")
    assert (tmp_path / "new" / "f").read_text() == "all"
    modes = [os.stat(path).st_mode for path in (tmp_path / "new" / "f", tmp_path / "plain")]
    assert modes[0] == modes[1]


def test_writing_leaves_the_umask_alone_which_other_threads_have_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("changed it"))
    with atomic_write(tmp_path / "f") as temporary:
        temporary.write_text("all")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


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


WRITES_AND_DIES = """
import os, sys
from edufast.utils.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""


def killed(path):
    """A process that is killed while it writes ``path``."""
    process = subprocess.run([sys.executable, "-c", WRITES_AND_DIES, path])
    assert process.returncode == -signal.SIGKILL


def test_processes_that_were_killed_leave_what_is_removed_and_nothing_else(tmp_path):
    kept = [tmp_path / ".hidden", tmp_path / "sub" / "f.partial"]
    killed(tmp_path / "sub" / "f")
    for path in kept:
        path.touch()
    assert len(list((tmp_path / "sub").iterdir())) == 2
    remove_partial_files(tmp_path)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_processes_that_were_killed_leave_nothing_once_the_file_is_written(tmp_path):
    path = tmp_path / "f[1]"
    killed(path)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(path) as temporary:
        temporary.write_text("all")
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_being_written_is_not_taken_for_left_behind(tmp_path):
    path = tmp_path / "f"
    with atomic_write(path) as slow:
        slow.write_text("slow")
        remove_partial_files(tmp_path)
        with atomic_write(path) as fast:
            fast.write_text("fast")
        assert path.read_text() == "fast"
    assert path.read_text() == "slow" and list(tmp_path.iterdir()) == [path]


def test_one_that_another_process_took_for_left_behind_is_begun_again(tmp_path, monkeypatch):
    made = []

    def made_and_lost(**arguments):
        made.append(mkdtemp(**arguments))
        if len(made) == 1:
            remove_partial_files(tmp_path)  # by the other one, before this one has locked it
        return made[-1]

    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", made_and_lost)
    with atomic_write(tmp_path / "f") as temporary:
        temporary.write_text("all")
    assert (tmp_path / "f").read_text() == "all" and not Path(made[0]).exists()


@pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "target"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to(os.devnull)
    else:
        os.mkfifo(tmp_path / "pipe")
        path = tmp_path / "pipe" if kind == "pipe" else path
        if kind == "link":
            path.symlink_to(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    message = r"is (not a regular file|a folder); expected a file to write"
    with pytest.raises(UserError, match=message), atomic_write(path):
        pytest.fail("went on to write")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("setting", "folder"), [("", "~/.cache/edufast"), ("kept", "kept")])
def test_what_can_be_made_again_is_kept_where_the_environment_says(setting, folder, monkeypatch):
    monkeypatch.setenv("EDUFAST_CACHE", setting)
    assert cache_folder() == Path(folder).expanduser()


def test_a_folder_takes_its_place_as_a_whole(tmp_path):
    target = tmp_path / "new" / "folder"
    for content in ("first", "second"):
        with atomic_folder(target) as temporary:
            (temporary / content).write_text(content)
        assert [path.name for path in target.iterdir()] == [content]
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "third").write_text("half")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_of_files_that_belong_together_all_appear_or_none(tmp_path):
    (tmp_path / "own").touch()
    for text in ("old", "new"):
        with atomic_files(tmp_path, last="index") as temporary:
            for name in ("index", "a"):
                (temporary / name).write_text(text)
    with pytest.raises(RuntimeError), atomic_files(tmp_path, last="index") as temporary:
        (temporary / "a").write_text("newer")
        raise RuntimeError
    (tmp_path / "b").mkdir()
    refused = pytest.raises(UserError, match="b is a folder")
    with refused, atomic_files(tmp_path, last="index") as temporary:
        for name in ("index", "a", "b"):
            (temporary / name).write_text("newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "index", "own"]
    assert {(tmp_path / name).read_text() for name in ("a", "index")} == {"new"}


def test_the_last_of_them_is_missing_while_the_others_are_moved(tmp_path, monkeypatch):
    for text in ("old", "new"):
        with suppress(KeyboardInterrupt), atomic_files(tmp_path, last="index") as temporary:
            for name in ("index", "a", "b"):
                (temporary / name).write_text(text)
            if text == "new":
                monkeypatch.setattr(Path, "replace", interrupted_after_one(Path.replace))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def interrupted_after_one(replace):
    """The second call is interrupted, and no other."""
    calls = []

    def replaced(path, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(path, target)

    return replaced


def test_a_folder_that_cannot_take_the_place_of_another_leaves_it_there(tmp_path, monkeypatch):
    for text in ("old", "new"):
        with suppress(KeyboardInterrupt), atomic_folder(tmp_path / "f") as temporary:
            (temporary / "a").write_text(text)
            if text == "new":
                monkeypatch.setattr(Path, "replace", interrupted_after_one(Path.replace))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f" / "a").read_text() == "old"


def test_two_processes_may_write_one_folder_at_once(tmp_path, monkeypatch):
    replace = Path.replace

    def replaced(path, target):
        replace(path, target)
        if Path(target).name == "earlier":  # the other one is faster
            monkeypatch.setattr(Path, "replace", replace)
            with atomic_folder(tmp_path / "f") as temporary:
                (temporary / "a").write_text("other")

    with atomic_folder(tmp_path / "f") as temporary:
        (temporary / "a").write_text("old")
    with atomic_folder(tmp_path / "f") as temporary:
        (temporary / "a").write_text("new")
        monkeypatch.setattr(Path, "replace", replaced)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f" / "a").read_text() == "new"


def test_folders_that_another_process_removes_meanwhile_are_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name / ".f.0.partial").mkdir(parents=True)
    gone = ["a", "b"]

    def remove(path):
        while gone:
            shutil.rmtree(tmp_path / gone.pop())

    monkeypatch.setattr(files, "_remove_unlocked", remove)
    remove_partial_files(tmp_path)
    assert list(tmp_path.iterdir()) == []
