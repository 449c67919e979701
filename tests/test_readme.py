"""The README's Python runs as written."""

import re
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LONG, SHORT, SCRIPT = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_is_short():
    lines = [line for line in LONG.splitlines() if line.strip()]
    assert len(lines) <= 16


def test_the_example_trains_and_exports(tmp_path):
    script = LONG + "\nimport torch; print(graduate(torch.zeros(2, 3, 32, 32)).shape)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "torch.Size([2, 10])" in result.stdout
    assert (tmp_path / "student.onnx").stat().st_size > 100_000
    last = re.findall(r"accuracy ([\d.]+)%", result.stderr)[-1]
    assert float(last) > 90


def test_the_loss_alone():
    import edufast

    logits = torch.randn(8, 100, requires_grad=True)
    names = {
        "edufast": edufast,
        "logits": logits,
        "teacher_a": torch.randn(8, 50),
        "teacher_b": torch.randn(8, 50),
        "labels": torch.randint(100, (8,)),
    }
    exec(SHORT, names)
    assert torch.isfinite(names["loss"]) and logits.grad.abs().sum() > 0


def test_the_script_for_devices_is_the_example():
    """Which tests/edge/test_standalone.py runs."""
    example = (ROOT / "examples" / "predict.py").read_text()
    assert example.partition('"""\n\n')[2] == SCRIPT
