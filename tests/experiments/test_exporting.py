"""Exports of a finished run, in its event log and its report."""

from __future__ import annotations

from pathlib import Path

from edufast.edge.device_rows import DeviceRow
from edufast.edge.export import ExportReport
from edufast.edge.latency import Latency
from edufast.edge.parity import ClassAccuracy, Parity
from edufast.experiments.exporting import record_exports
from edufast.experiments.run_folder import RunFolder
from edufast.models.weights import ModelInfo
from tests.experiments.logs import RUN, write
from tests.tiny import tiny_data

DATA = tiny_data()
INFO = ModelInfo.describe("resnet8", DATA, range(6), 0.9, 1, 1.0)


def report(name: str, worst: str) -> ExportReport:
    parity = Parity(90, 0.99, 0.9, 0.875, -0.025, (-0.04, -0.01), ClassAccuracy(1, 0.8, 0.6), 0.3)
    latency = Latency(1.25, 2.5, 33.0)
    alone = DeviceRow(name, "ab", "Linux", "1.32.0", 5.0, 1.0, 2.0, 61_000_000, 52_000_000)
    return ExportReport(
        Path(name), "onnx-int8", 18, 12345, parity, False, ("a", worst), latency, latency, alone
    )


def test_they_are_logged_once_each_and_the_latest_is_shown(tmp_path: Path) -> None:
    folder = write(tmp_path, [RUN])
    record_exports(folder, [report("s.onnx", "old"), report("t.onnx", "b")], INFO, DATA)
    record_exports(folder, [report("s.onnx", "<new>")], INFO, DATA)
    found = RunFolder(folder).log().exports
    assert [(e.path, e.worst_class["class"]) for e in found] == [
        ("s.onnx", "<new>"),
        ("t.onnx", "b"),
    ]
    assert found[0].accuracy == 0.875 and found[0].interval == (-0.04, -0.01)
    page = (folder / "report.html").read_text()
    for cell in (
        "-2.50 (-4.00 to -1.00)",
        "&lt;new&gt;: 80.0 %, 60.0 %",
        "1.25 ms",
        "2.50 ms",
        "61 MB",
    ):
        assert cell in page
    assert ">old:" not in page
