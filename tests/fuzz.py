"""Files that may come from others or be damaged, each with what reads it.

tests/test_fuzz.py changes them at random, tools/fuzz.py guided by the lines that the reader runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edufast.bench import results
from edufast.data import Augment
from edufast.data.arrays import arrays
from edufast.data.leave_out import read_list, write_list
from edufast.data.manifest import manifest
from edufast.data.webdataset import webdataset
from edufast.edge.contract import BundledFile, Contract
from edufast.edge.device_rows import DeviceRow, read_rows
from edufast.edge.onnx_model import OnnxModel
from edufast.experiments.recipe import load_recipe
from edufast.experiments.run_folder import RunFolder
from edufast.experiments.run_log import read_run
from edufast.models.pretrained import started
from edufast.models.weights import ModelInfo, read_weights, save_model
from edufast.models.zoo import create_model
from edufast.teachers.logit_store import LogitStore
from edufast.training.checkpoint import load_checkpoint, save_checkpoint
from edufast.utils.errors import UserError
from tests.data.packed import samples, write_tar
from tests.edge.linear_onnx import write_linear
from tests.experiments.logs import trial
from tests.experiments.small import small_config
from tests.tiny import tiny_data, tiny_faculty

DATA = tiny_data()


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        path: of the file within a folder.
        write: makes a folder with a valid one.
        read: what reads the folder. It raises UserError in one line, or returns what it found.
        hashed: whether it returns what was written, or raises.
    """

    path: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    hashed: bool = False

    def check(self, folder: Path, expected: Any) -> None:
        """Read the folder, whose file was changed; ``expected`` is what was in it before.

        Raises:
            Exception: anything but a UserError in one line, or another content of a hashed file.
        """
        try:
            found = self.read(folder)
        except UserError as error:
            assert "\n" not in str(error), error
            return
        if self.hashed:
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def _recipe(folder: Path) -> None:
    text = "name: a\ndata: {source: digits}\nstudent: {model: resnet8}\nteachers:\n"
    text += "- {model: resnet8, classes: 0-9}\ncurriculum: {epochs: 3}\ntraining: {lr: 0.1}\n"
    (folder / "recipe.yaml").write_text(text)


def _config(folder: Path) -> None:
    RunFolder(folder).claim(small_config("education"))


def _log(folder: Path) -> None:
    events = trial("education", 0, [[0.5, 0.6], [0.7]])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def _checkpoint(folder: Path) -> None:
    save_checkpoint(folder / "c.pt", {"weights": torch.arange(9.0), "epoch": 3})


def _weights(folder: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    info = ModelInfo("net", ("a", "b"), (0, 1), "x", 32, (0.4,) * 3, (0.2,) * 3, 0.9, 100)
    save_model(folder / "m.safetensors", model, info)


def _foreign(folder: Path) -> None:
    torch.save(create_model("resnet8", 2).state_dict(), folder / "m.pt")


def _store(folder: Path) -> LogitStore:
    kept = {"precision": torch.float32, "dtype": torch.float32, "top_k": None}
    return LogitStore(folder, list(tiny_faculty(range(3))), DATA, Augment(pad=0), **kept)


def _cache(folder: Path) -> None:
    views = np.arange(20)
    _store(folder).write(0, views, torch.linspace(-3, 3, 60).view(20, 3))


def _cached(folder: Path) -> Tensor:
    """Rows that are not stored, or are damaged, are taught again."""
    logits, stored = _store(folder).read(0, np.arange(20))
    again = torch.linspace(-3, 3, 60).view(20, 3)
    return torch.where(torch.from_numpy(stored)[:, None], logits, again)


def _arrays(folder: Path) -> None:
    images, labels = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=images, labels=labels, class_names=["a", "b"])


def _table(folder: Path) -> None:
    lines = [f"{number}.png,{'ab'[number % 2]}" for number in range(8)]
    for number in range(8):
        Image.new("RGB", (4, 4)).save(folder / f"{number}.png")
    (folder / "list.csv").write_text("\n".join(["picture,class", *lines]))


def _left_out(folder: Path) -> None:
    write_list(folder / "list.csv", {folder / "a.png": "cannot be decoded", folder / "b": "twice"})


def _shard(folder: Path) -> None:
    write_tar(folder / "a.tar", samples(8))


def _contract(folder: Path) -> None:
    file = BundledFile("a.onnx", "onnx", True, "0" * 64, 10, 32, 0.9, 0.9, (-0.1, 0.1))
    Contract(("a", "b"), {}, {}, {}, (file,), "0" * 64, {}).write(folder)


def _rows(folder: Path) -> None:
    row = DeviceRow("student.onnx", "0" * 64, "a machine", "onnxruntime 1", 1.0, 2.0, 3.0, 4, 5)
    (folder / "rows.txt").write_text(json.dumps(asdict(row)) + "\n")


def _onnx(folder: Path) -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 6))
    write_linear(folder / "teacher.onnx", layer)


def _measured(folder: Path) -> None:
    times = {"median": 2.0, "low": 1.0, "high": 4.0}
    measured = [{"size": size, "results": {"cpp": times, "eager": times}} for size in (1, 2)]
    results.write(folder / "a.json", {"device": "cpu", "load": 0.5}, True, measured)


def _seconds(folder: Path) -> Any:
    def title(result: dict[str, Any]) -> str:
        return f"size {result['size']}"

    return results.measurements(results.read(folder / "a.json", title)["results"], title)


TARGETS = {
    "recipe": Target("recipe.yaml", _recipe, lambda f: load_recipe(str(f / "recipe.yaml"))),
    "config of a run": Target("config.yaml", _config, lambda f: RunFolder(f).read_config()),
    "event log": Target("metrics.jsonl", _log, lambda f: read_run(f / "metrics.jsonl")),
    "checkpoint": Target("c.pt", _checkpoint, lambda f: load_checkpoint(f / "c.pt"), hashed=True),
    "weights": Target(
        "m.safetensors", _weights, lambda f: read_weights(f / "m.safetensors")[1], hashed=True
    ),
    "weights of torch.save": Target(
        "m.pt", _foreign, lambda f: started("resnet8", 2, f / "m.pt").learned
    ),
    "stored logits": Target("teacher0.logits", _cache, _cached, hashed=True),
    "header of stored logits": Target("header.json", _cache, _cached, hashed=True),
    "arrays": Target("train.npz", _arrays, arrays),
    "table of pictures": Target("list.csv", _table, lambda f: manifest(f / "list.csv")),
    "list to leave out": Target("list.csv", _left_out, lambda f: read_list(f / "list.csv")),
    "tar shard": Target("a.tar", _shard, lambda f: webdataset(f / "a.tar")),
    "teacher of onnxruntime": Target(
        "teacher.onnx", _onnx, lambda f: OnnxModel(f / "teacher.onnx")(torch.zeros(2, 3, 16, 16))
    ),
    "contract of a bundle": Target("contract.json", _contract, Contract.read),
    "results of a benchmark": Target("a.json", _measured, _seconds),
    "rows of bench.py": Target("rows.txt", _rows, lambda f: read_rows(f / "rows.txt")),
}
