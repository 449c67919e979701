"""Rows of logits on disk: exact, and damage never passes for logits."""

from __future__ import annotations

import gc
import subprocess
import sys

import numpy as np
import pytest
import torch

from edufast.teachers.logit_rows import RowFormat, Rows
from edufast.utils.errors import UserError

GENERATOR = torch.Generator().manual_seed(0)

WHOLE32 = RowFormat.of(5, torch.float32, None)
WHOLE16 = RowFormat.of(5, torch.bfloat16, None)
TOP = RowFormat.of(40, torch.bfloat16, 3)


def rows_at(tmp_path, row=WHOLE16, count=200, identity="a teacher's"):
    return Rows(tmp_path / "rows", count, row, identity)


def some(n, classes):
    return 5 * torch.randn(n, classes, generator=GENERATOR)


# An odd and an even number of classes: bfloat16 rows are filled up to whole words.
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_rows_come_back(tmp_path, classes, dtype):
    logits = some(10, classes)
    row = RowFormat.of(classes, dtype, None)
    assert row.encode(logits).shape == (10, row.width)
    assert torch.equal(row.decode(row.encode(logits)), logits.to(dtype).float())


def test_top_rows_keep_the_largest_and_share_out_the_rest():
    logits = some(20, 40)
    read = TOP.decode(TOP.encode(logits))
    values, classes = logits.topk(3)
    assert torch.equal(read.gather(1, classes), values.bfloat16().float())
    others = torch.ones_like(read).scatter(1, classes, 0).bool()
    rest = read[others].view(20, 37)
    assert (rest == rest[:, :1]).all()
    mass = logits.exp()[others].view(20, 37).sum(1)
    torch.testing.assert_close(rest.exp().sum(1), mass)
    # As a distribution: the same up to bfloat16 at the top.
    before, after = logits.softmax(1).gather(1, classes), read.softmax(1).gather(1, classes)
    torch.testing.assert_close(after, before, rtol=0.05, atol=0.01)


def test_class_numbers_beyond_15_bits_fit():
    row = RowFormat.of(65536, torch.bfloat16, 1)
    logits = torch.zeros(1, 65536)
    logits[0, 65535] = -2 + 9
    assert row.decode(row.encode(logits)).argmax().item() == 65535


def test_top_of_few_classes_is_everything():
    assert RowFormat.of(3, torch.bfloat16, 3) == RowFormat.of(3, torch.bfloat16, None)


@pytest.mark.parametrize(
    ("classes", "dtype", "top_k"),
    [
        (10, torch.float16, None),
        (10, torch.bfloat16, 0),
        (10, torch.bfloat16, 1.5),
        (10, torch.float32, 3),
        (65537, torch.bfloat16, 1),  # whose number has no place
    ],
)
def test_formats_there_are_not(classes, dtype, top_k):
    with pytest.raises(ValueError, match="expected"):
        RowFormat.of(classes, dtype, top_k)


@pytest.mark.parametrize("row", [WHOLE32, WHOLE16, TOP], ids=["float32", "bfloat16", "top"])
def test_a_row_never_written_is_not_stored(tmp_path, row):
    rows = rows_at(tmp_path, row)
    places = np.array([7, 199, 0])
    assert not rows.stored().any() and not rows.read(places)[1].any()
    logits = some(3, row.classes)
    told = rows.write(places, logits)
    read, valid = rows_at(tmp_path, row).read(places[::-1].copy())
    assert valid.all() and torch.equal(read, row.decode(row.encode(logits)).flip(0))
    assert torch.equal(told, read.flip(0))
    assert np.flatnonzero(rows.stored()).tolist() == [0, 7, 199]


def test_a_folder_in_the_place_of_the_file_is_one_error(tmp_path, capsys):
    (tmp_path / "rows").mkdir()
    with pytest.raises(IsADirectoryError):
        rows_at(tmp_path, WHOLE32)
    gc.collect()
    assert capsys.readouterr().err == "", "no second one, from what was never opened"


@pytest.mark.parametrize("row", [WHOLE32, WHOLE16, TOP], ids=["float32", "bfloat16", "top"])
def test_any_flipped_bit_or_torn_row_counts_as_not_stored(tmp_path, row):
    rows = rows_at(tmp_path, row, count=4)
    rows.write(np.arange(4), some(4, row.classes))
    path, size = tmp_path / "rows", 4 * (row.width + 1)
    good = path.read_bytes()
    for bit in range(8 * size):
        damaged = bytearray(good)
        damaged[size + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert rows.stored().tolist() == [True, False, True, True]
        assert not rows.read(np.array([1]))[1][0]
    for torn in range(1, size):
        path.write_bytes(
            good[:size] + good[size : size + torn] + bytes(size - torn) + good[2 * size :]
        )
        assert not rows.read(np.array([1]))[1][0]
    path.write_bytes(good[size : 2 * size] + good[size:])  # a good row in another's place
    assert rows.stored().tolist() == [False, True, True, True]


def test_rows_of_something_else_count_as_not_stored(tmp_path):
    rows_at(tmp_path).write(np.arange(4), some(4, 5))
    assert not rows_at(tmp_path, identity="another teacher's").read(np.arange(4))[1].any()


def test_a_shortened_file_loses_only_what_it_lost(tmp_path):
    rows = rows_at(tmp_path, count=50)
    rows.write(np.arange(50), some(50, 5))
    del rows
    path = tmp_path / "rows"
    path.write_bytes(path.read_bytes()[:-30])
    assert rows_at(tmp_path, count=50).stored().tolist() == [True] * 48 + [False] * 2


SHORTENED = """
import os, sys
import numpy as np, torch
from edufast.teachers.logit_rows import RowFormat, Rows
rows = Rows(sys.argv[1], 4096, RowFormat.of(5, torch.bfloat16, None), "")
everything = np.arange(4096)
rows.write(everything, torch.ones(4096, 5))
os.truncate(sys.argv[1], 1000 * 16 + 7)
print(int(rows.read(everything)[1].sum()), int(rows.stored().sum()))
rows.write(everything, torch.ones(4096, 5))
print(int(rows.read(everything)[1].sum()), int(rows.stored().sum()))
"""


def test_processes_go_on_when_a_file_is_shortened_while_it_is_open(tmp_path):
    command = [sys.executable, "-c", SHORTENED, tmp_path / "rows"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["1000", "1000", "4096", "4096"]


def test_a_disk_that_cannot_be_read_is_told_in_a_line(tmp_path, monkeypatch):
    rows = rows_at(tmp_path)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", broken)
    for read in (rows.stored, lambda: rows.read(np.arange(1))):
        with pytest.raises(UserError, match=r"cannot read .*rows: Input/output error"):
            read()


def test_a_disk_that_takes_no_more_is_told_in_a_line(tmp_path, monkeypatch):
    rows = rows_at(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(UserError, match=r"cannot write .*rows: No space left on device"):
        rows.write(np.arange(1), some(1, 5))


def test_a_file_larger_than_the_file_system_has_is_named(tmp_path):
    with pytest.raises(OSError, match=r"File too large: .*rows") as caught:
        rows_at(tmp_path, count=2**58)
    assert caught.value.filename == str(tmp_path / "rows")
