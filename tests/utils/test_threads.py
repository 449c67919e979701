"""Threads that a process may run: bound, limited by control groups of both versions, or neither."""

import os

import pytest

from edufast.utils import threads
from edufast.utils.threads import available_threads, configure_openmp


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Writes files of control groups in which this process is, on a machine of eight processors."""
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is given back
        monkeypatch.delenv(name)

    def write(membership, files):
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 2),
        ("0::/on/the/host\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/../a\n", {"a/cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "1600000 100000\n"}, 8),
        (
            "5:cpu,cpuacct:/d\n4:cpuset:/\n",
            {"cpu/d/cpu.cfs_quota_us": "300000\n", "cpu/d/cpu.cfs_period_us": "100000\n"},
            3,
        ),
        (
            "5:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            8,
        ),
    ],
)
def test_the_smallest_limit_counts(groups, membership, files, expected):
    groups(membership, files)
    assert available_threads() == expected
    configure_openmp()
    assert os.environ.get("OMP_NUM_THREADS") == (None if expected == 8 else str(expected))


def test_processors_that_the_process_is_not_bound_to_do_not_count(groups, monkeypatch):
    groups("0::/\n", {"cpu.max": "400000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert available_threads() == 1


def test_what_the_user_has_set_stays(groups, monkeypatch):
    groups("0::/\n", {"cpu.max": "200000 100000\n"})
    configure_openmp()
    assert os.environ["GOMP_SPINCOUNT"] == "10000" and os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    configure_openmp()
    assert os.environ["GOMP_SPINCOUNT"] == "5" and os.environ["OMP_NUM_THREADS"] == "7"


def test_whoever_says_how_threads_wait_need_not_count_turns(groups, monkeypatch):
    groups("", {})
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    configure_openmp()
    assert "GOMP_SPINCOUNT" not in os.environ
