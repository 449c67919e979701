"""Students that fit a device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edufast.edge.fitting import Budget, Candidate, candidates, propose

ONE = Candidate("a", 1, "onnx", 100, 10, 10, 1.0, True)


def test_the_one_with_the_most_arithmetic_that_fits_is_proposed() -> None:
    two, three = replace(ONE, exit=2, flops=200), replace(ONE, exit=3, flops=300, fits=False)
    assert propose([ONE, two, three]) == two
    assert propose([two, replace(two, format="onnx-int8")]) == two
    assert propose([three]) is None and propose([]) is None


@pytest.fixture(scope="module")
def found() -> list[Candidate]:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    budget = Budget(flash=60 * 1024, ram=16 * 1024, latency_ms=10_000)
    return list(candidates(["resnet8"], 10, 16, ["onnx", "onnx-int8"], budget))


def test_every_exit_is_tried_in_every_format(found) -> None:
    assert [(c.exit, c.format) for c in found] == [
        (exit, form) for exit in (1, 2, 3) for form in ("onnx", "onnx-int8")
    ]
    for smaller, larger in zip(found[:-2], found[2:], strict=True):
        assert smaller.flops < larger.flops and smaller.flash < larger.flash
        assert smaller.ram <= larger.ram


def test_a_full_disk_of_temporary_files_is_named(monkeypatch, tmp_path) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edufast.edge.onnx.write", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match="No space left on device") as caught:
        next(candidates(["resnet8"], 10, 16, ["onnx"], Budget()))
    assert caught.value.filename.startswith(str(tmp_path))


def test_what_does_not_fit_is_not_measured(found) -> None:
    for each in found:
        fits = each.flash <= 60 * 1024 and each.ram <= 16 * 1024
        assert each.fits == fits == (each.latency_ms is not None)
    assert {each.fits for each in found} == {True, False}


def test_what_is_too_slow_does_not_fit() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    (first, *_) = candidates(["resnet8"], 10, 16, ["onnx"], Budget(latency_ms=0.0))
    assert first.latency_ms is not None and not first.fits
