from __future__ import annotations

import json
from pathlib import Path

from edufast.bench.bandwidth import FILE
from edufast.bench.bandwidth_plot import plot, times
from edufast.bench.lines import Lines


def test_every_backend_of_a_shape_is_in_the_plot(tmp_path: Path) -> None:
    names = ["kd 9999x1000 K=2 bf16 cuda", "kd 9999x1000 K=2 bf16 cuda autograd"]
    names += ["merge resnet50 copy fp32", "kd 9999x1000 K=2 bf16 compile autograd"]
    names += ["kd 9999x1000 K=2 bf16 cuda host", "kd 128x100 K=2 bf16 cuda autograd"]
    with (tmp_path / FILE).open("w") as file:
        for us, name in enumerate(names, start=1):
            file.write(json.dumps({"name": name, "us": us, "copy_us": 0.5}) + "\n")
    found = times(Lines(tmp_path / FILE))
    assert found == {(1000, 2): {"cuda": (2, 0.5), "compile": (4, 0.5)}}
    assert plot(tmp_path).read_bytes().startswith(b"\x89PNG")
