"""A folder has one user at a time, and a dead one leaves nothing locked."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from edufast.utils.errors import UserError
from edufast.utils.lock import InUse, folder_lock, is_locked, lock

HOLD = """
import sys
from pathlib import Path
from edufast.utils.lock import folder_lock, is_locked
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_user_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    refused = pytest.raises(UserError, match=rf"run is in use by process {os.getpid()} on .*since")
    with folder_lock(folder), refused, folder_lock(folder):
        pass
    with folder_lock(folder):  # free again
        pass


def test_a_file_has_a_lock_beside_it(tmp_path: Path) -> None:
    weights = tmp_path / "new" / "weights"
    held = weights.with_suffix(".lock"), weights
    with lock(*held), pytest.raises(InUse, match="new/weights is in use by process"), lock(*held):
        pass
    assert not weights.exists()


def test_a_killed_process_leaves_the_folder_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    refused = pytest.raises(UserError, match=f"in use by process {other.pid} on")
    with refused, folder_lock(tmp_path):
        pass
    other.kill()
    other.communicate()
    with folder_lock(tmp_path):
        pass


def test_what_is_no_file_locks_nothing_and_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    refused = pytest.raises(
        UserError, match=r"\.lock is not a regular file; expected a file to write"
    )
    with refused, folder_lock(tmp_path):
        pass


def test_a_holder_of_whom_the_name_is_damaged(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        (tmp_path / ".lock").write_bytes(b"process \xff")
        with (
            pytest.raises(UserError, match="in use by process \ufffd; wait"),
            folder_lock(tmp_path),
        ):
            pass


def test_a_look_tells_whether_a_folder_is_held_and_writes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path) and not list(tmp_path.iterdir())
    with folder_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_look_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_lock(tmp_path):
        pass
    with open(tmp_path / ".lock", encoding="utf-8") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("edufast.utils.lock.time.sleep", lambda _: looking.close())
        with folder_lock(tmp_path):
            assert looking.closed


@pytest.mark.parametrize("again", [False, True])
def test_who_holds_a_folder_can_ask_whether_it_is_still_the_same(
    tmp_path: Path, again: bool
) -> None:
    folder = tmp_path / "run"
    with folder_lock(folder) as check:
        check()
        shutil.rmtree(folder)
        with folder_lock(folder) if again else nullcontext() as other:
            with pytest.raises(InUse, match=r"run was removed while this process was in it$"):
                check()
            if other is not None:
                other()
